"""Parameters that do not train. They are written once a run; the file's name is its sha256.

    frozen/SHA.safetensors

Every checkpoint's manifest names the file. So a run holds its whole model, without writing the
larger part with every checkpoint. The folder that the run began from may be deleted.
"""

import os
from collections.abc import Sequence
from functools import reduce
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mobilellama.config import UserError
from mobilellama.files.atomic import fsync_path, sha256_of_file
from mobilellama.files.safetensors_file import FLOATS, write_safetensors
from mobilellama.pretrain.weight_source import WeightSource
from mobilellama.progress import Progress
from mobilellama.run_folder import RunFolder


def write_frozen(
    run: RunFolder, source: WeightSource, names: Sequence[str], *, attempt: int
) -> str:
    """Write the parameters that do not train (rank 0 only), and return the file's sha256.

    Args:
        run: its folder exists.
        source: holds the parameters. The file has the widest of their dtypes, so no value is
            rounded.
        names: of the parameters that do not train.
        attempt: this attempt. The write fails if the folder has a newer one.

    Raises:
        FencedError: a newer attempt owns the run.
    """
    run.require_newest(attempt)
    dtype = reduce(torch.promote_types, map(source.dtype, names))
    shapes = {name: source.shape(name) for name in names}
    total = sum(shape.numel() for shape in shapes.values()) * dtype.itemsize
    run.frozen.mkdir(exist_ok=True)
    for leftover in run.frozen.glob("new-*"):  # an earlier start was killed while it wrote
        leftover.unlink(missing_ok=True)
    # The final name is the hash, which is known only when the file is whole. The attempt is name
    # enough for the temporary: only the newest one may write here.
    path = run.frozen / f"new-{attempt}.safetensors"
    with Progress("frozen parameters", total=total / 1e6, unit="MB") as progress:
        tensors = (source.stored(name).to(dtype) for name in names)
        write_safetensors(path, shapes, dtype, tensors, progress)
    sha256 = sha256_of_file(path)
    run.require_newest(attempt)
    os.replace(path, run.frozen / f"{sha256}.safetensors")
    fsync_path(run.frozen)
    return sha256


class FrozenError(UserError):
    """The file is missing or damaged. No checkpoint of the run can be used without it."""


class FrozenFile(WeightSource):
    """The parameters of a run that do not train, opened for reading.

    Raises:
        FrozenError: the file is missing, or is no safetensors file.
    """

    def __init__(self, run: RunFolder, sha256: str) -> None:
        self.path, self._sha256 = run.frozen / f"{sha256}.safetensors", sha256
        if not self.path.is_file():
            raise self._damaged("missing; the run's checkpoints need it. Restore it from a copy")
        try:
            self._file: Any = safe_open(self.path, framework="pt").__enter__()
        except (SafetensorError, OSError) as error:
            raise self._damaged(f"cannot be read ({error}). Restore it from a copy") from None
        slices = {name: self._file.get_slice(name) for name in self._file.keys()}
        self._shapes = {name: torch.Size(its.get_shape()) for name, its in slices.items()}
        self._dtypes = {name: FLOATS[its.get_dtype()] for name, its in slices.items()}

    def _damaged(self, what: str) -> FrozenError:
        return FrozenError(f"{self.path}: {what}")

    @property
    def fingerprint(self) -> str:
        """sha256 of the file, taken from its name."""
        return self._sha256

    def verify(self, *, share: int = 0, shares: int = 1) -> None:
        """Raise FrozenError if the file's bytes have changed since it was written."""
        del shares
        if share == 0 and sha256_of_file(self.path) != self.fingerprint:
            raise self._damaged("its sha256 differs from its name. Restore it from a copy")

    def names(self) -> list[str]:
        """Return the names of the parameters."""
        return list(self._shapes)

    def shape(self, name: str) -> torch.Size:
        """Return a parameter's shape."""
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of the file."""
        return self._dtypes[name]

    def stored(self, name: str) -> Tensor:
        """Return a parameter in the dtype of the file."""
        return self._file.get_tensor(name)

    def close(self) -> None:
        """Close the file."""
        self._file.__exit__(None, None, None)

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
        del kind, error, trace
        self.close()
