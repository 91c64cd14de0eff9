"""Weights of a part of the model from somebody's files, by our names: checked whole, read late."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mobilellama.config import DataError
from mobilellama.pretrain.hf.fingerprint import sampled_sha256
from mobilellama.pretrain.hf.folder import dims
from mobilellama.pretrain.hf.weight_files import FLOATS, StoredWeights, some
from mobilellama.vlm.formats.converted_weights import ConvertedWeights


class WrongWeightsError(DataError):
    """Weights that are not those of their model. The message has counts and the first of each."""

    def __init__(self, folder: Path, problems: Mapping[str, list[str]]) -> None:
        super().__init__(folder, problems)  # all in args, so that it can be pickled
        self.folder, self.problems = folder, problems
        """What is wrong -> the stored names, or sentences, all of them."""

    def __str__(self) -> str:
        missing, unexpected = (self.problems[kind] for kind in ("missing", "unexpected"))
        if missing or unexpected:
            return (
                f"{self.folder}: its weights are not those of its model: {some(missing)} missing, "
                f"{some(unexpected)} unexpected"
            )
        misfits = self.problems["misfits"]
        more = f" (and {len(misfits) - 1} more)" if misfits[1:] else ""
        return f"{self.folder}: {misfits[0]}{more}"


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
        WrongWeightsError: a weight is missing, unexpected, or of another shape or dtype.
    """

    def __init__(
        self,
        folder: Path,
        weights: StoredWeights | ConvertedWeights,
        shapes: Mapping[str, torch.Size],
        *,
        stored_name: Callable[[str], str],
        ignored: Callable[[str], bool] = lambda name: False,
        tied: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self._weights = folder, weights
        self._others: dict[str, NamedWeights] = {}
        held = set(weights.names())
        self._names = {name: stored_name(name) for name in shapes}
        for name, other in (tied or {}).items():
            if name in shapes and self._names[name] not in held:
                self._names[name] = self._names[other]
        wanted = set(self._names.values())
        left = sorted(held - wanted)
        self.ignored = [name for name in left if ignored(name)]
        """Stored names that were passed over."""
        problems = {
            "missing": sorted(wanted - held),
            "unexpected": sorted(set(left) - set(self.ignored)),
            "misfits": [*self._misfits(shapes, held)],
        }
        if any(problems.values()):
            raise WrongWeightsError(folder, problems)

    def _misfits(self, shapes: Mapping[str, torch.Size], held: set[str]) -> Iterable[str]:
        """Say of each weight of another shape or dtype what it is."""
        for name, shape in shapes.items():
            if (stored := self._names[name]) not in held:
                continue
            if (found := self._weights.shape(stored)) != shape:
                yield f"'{stored}' is {dims(found)}, but its model wants {dims(shape)}"
            if (dtype := self._weights.dtype(stored)) not in FLOATS.values():
                yield f"'{stored}' is stored as {dtype}; fp32, bf16 and fp16 can be read"

    def add(self, prefix: str, other: "NamedWeights") -> None:
        """Take the weights whose names begin with `prefix` from other files from now on."""
        self._others[prefix] = other

    def _of(self, name: str) -> "NamedWeights":
        return next((its for prefix, its in self._others.items() if name.startswith(prefix)), self)

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype that a weight comes in."""
        its = self._of(name)
        return its._weights.dtype(its._names[name])

    def stored(self, name: str, shape: torch.Size) -> Tensor:
        """Return a weight in the dtype it comes in; it may be a view of the file."""
        its = self._of(name)
        return its._weights.tensor(its._names[name]).view(shape)

    def parameter(self, name: str, shape: torch.Size) -> Tensor:
        """Return a weight in fp32, a copy of its own."""
        return self.stored(name, shape).to(torch.float32, copy=True)

    def fingerprint(self, whole: Iterable[Path]) -> str:
        """Return what tells these weights from others: see ``sampled_sha256``."""
        paths = [path for its in (self, *self._others.values()) for path in its._weights.paths]
        return sampled_sha256(whole, paths)

    def close(self) -> None:
        """Let go of the files."""
        for its in (self, *self._others.values()):
            its._weights.close()
