"""Weights of a part of the model from somebody's files, by our names: checked whole, read late."""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mobilellama.config import DataError
from mobilellama.pretrain.hf_folder import dims, sampled_sha256
from mobilellama.pretrain.hf_weight_files import FLOATS, StoredWeights, some

log = logging.getLogger(__name__)


class NamedWeights:
    """A folder's weights under our names.

    Args:
        folder: for messages.
        weights: what it holds.
        shapes: our name and shape of every weight that it must hold.
        stored_name: our name -> the one in the files.
        ignored: stored names that may be there besides.
        tied: our name -> our other name, whose weight it shares where it is not stored itself.

    Raises:
        DataError: a weight is missing, unexpected, or of another shape; the message has counts and
            the first of each.
    """

    def __init__(
        self,
        folder: Path,
        weights: StoredWeights,
        shapes: Mapping[str, torch.Size],
        *,
        stored_name: Callable[[str], str],
        ignored: Callable[[str], bool] = lambda name: False,
        tied: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self._weights = folder, weights
        held = set(weights.names())
        self._names = {name: stored_name(name) for name in shapes}
        for name, other in (tied or {}).items():
            if name in shapes and self._names[name] not in held:
                self._names[name] = self._names[other]
        wanted = set(self._names.values())
        left = sorted(held - wanted)
        self.ignored = [name for name in left if ignored(name)]
        """Stored names that were passed over."""
        missing = sorted(wanted - held)
        unexpected = sorted(set(left) - set(self.ignored))
        if missing or unexpected:
            raise DataError(
                f"{folder}: its weights are not those of its model: {some(missing)} missing, "
                f"{some(unexpected)} unexpected"
            )
        self._require_shapes(shapes)

    def _require_shapes(self, shapes: Mapping[str, torch.Size]) -> None:
        for name, shape in shapes.items():
            stored = self._names[name]
            if (found := self._weights.shape(stored)) != shape:
                raise DataError(
                    f"{self.folder}: '{stored}' is {dims(found)}, but its model wants {dims(shape)}"
                )
            if (dtype := self._weights.dtype(stored)) not in FLOATS.values():
                raise DataError(
                    f"{self.folder}: '{stored}' is stored as {dtype}; fp32, bf16 and fp16 can be "
                    "read"
                )

    def stored(self, name: str, shape: torch.Size) -> Tensor:
        """Return a weight in the dtype it comes in; it may be a view of the file."""
        return self._weights.tensor(self._names[name]).view(shape)

    def parameter(self, name: str, shape: torch.Size) -> Tensor:
        """Return a weight in fp32, a copy of its own."""
        return self.stored(name, shape).to(torch.float32, copy=True)

    def fingerprint(self, whole: Iterable[Path]) -> str:
        """Return what tells these weights from others: see ``sampled_sha256``."""
        return sampled_sha256(whole, self._weights.paths)

    def close(self) -> None:
        """Let go of the files."""
        self._weights.close()
