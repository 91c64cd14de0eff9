"""Parameters that do not train: written once a run, into a file that its own sha256 names.

    frozen/SHA.safetensors

Every checkpoint's manifest names the file. What was trained and what was not thus stay one
whole, without writing the larger part again and again; the folder that the run started from
may be gone.
"""

import os
from collections.abc import Callable, Mapping
from functools import reduce
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mobilellama.config import UserError
from mobilellama.files.atomic import fsync_path, sha256_of_file
from mobilellama.files.safetensors_file import write_safetensors
from mobilellama.progress import Progress
from mobilellama.run_folder import RunFolder


def write_frozen(
    run: RunFolder,
    shapes: Mapping[str, torch.Size],
    read: Callable[[str, torch.Size], Tensor],
    *,
    attempt: int,
) -> str:
    """Write the parameters that do not train (rank 0 only) and return the file's sha256.

    Args:
        run: its folder exists.
        shapes: name and shape of each.
        read: returns one in the dtype it comes in; the widest of all is written, so that
            nothing is rounded.
        attempt: this attempt; a newer one in the folder makes the write fail.

    Raises:
        FencedError: a newer attempt owns the run.
    """
    run.require_newest(attempt)
    dtypes = (read(name, shape).dtype for name, shape in shapes.items())
    dtype = reduce(torch.promote_types, dtypes)
    total = sum(shape.numel() for shape in shapes.values()) * dtype.itemsize
    run.frozen.mkdir(exist_ok=True)
    for leftover in run.frozen.glob("new-*"):  # of a start that was killed
        leftover.unlink(missing_ok=True)
    path = run.frozen / f"new-{attempt}.safetensors"
    with Progress("frozen parameters", total=total / 1e6, unit="MB") as progress:
        tensors = (read(name, shape).to(dtype) for name, shape in shapes.items())
        write_safetensors(path, shapes, dtype, tensors, progress)
    sha256 = sha256_of_file(path)
    run.require_newest(attempt)
    os.replace(path, run.frozen / f"{sha256}.safetensors")
    fsync_path(run.frozen)
    return sha256


class FrozenError(UserError):
    """The file is not as it was written; no checkpoint of the run is to blame, or of use."""


class FrozenFile:
    """The parameters of a run that do not train, opened for reading.

    Raises:
        FrozenError: the file is missing or no safetensors file.
    """

    def __init__(self, run: RunFolder, sha256: str) -> None:
        self.path, self._sha256 = run.frozen / f"{sha256}.safetensors", sha256
        if not self.path.is_file():
            raise self._damaged("missing; the run's checkpoints need it. Restore it from a copy")
        try:
            self._file: Any = safe_open(self.path, framework="pt").__enter__()
        except (SafetensorError, OSError) as error:
            raise self._damaged(f"cannot be read ({error}). Restore it from a copy") from None
        self._names = frozenset(self._file.keys())

    def _damaged(self, what: str) -> FrozenError:
        return FrozenError(f"{self.path}: {what}")

    def verify(self) -> None:
        """Raise FrozenError unless the file's bytes are those that were written."""
        if sha256_of_file(self.path) != self._sha256:
            raise self._damaged("its sha256 is not its name. Restore it from a copy")

    def names(self) -> frozenset[str]:
        """Return the names of the parameters."""
        return self._names

    def numel(self, name: str) -> int:
        """Return the number of elements of a parameter."""
        return torch.Size(self._file.get_slice(name).get_shape()).numel()

    def parameter(self, name: str, shape: torch.Size) -> Tensor:
        """Return a parameter in fp32."""
        return self.stored(name).float().view(shape)

    def stored(self, name: str) -> Tensor:
        """Return a parameter in the dtype of the file."""
        return self._file.get_tensor(name)

    def __enter__(self) -> "FrozenFile":
        """Be closed at the end of a block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._file.__exit__(kind, error, trace)
