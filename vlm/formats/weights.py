"""Weights of a part of the model from somebody's files, by our names: checked whole, read late."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mobilellama.config import DataError
from mobilellama.files.safetensors_file import FLOATS
from mobilellama.pretrain.hf.fingerprint import sampled_sha256
from mobilellama.pretrain.hf.weight_files import StoredWeights, some
from mobilellama.pretrain.weight_source import WeightSource, dims
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
                f"{self.folder}: its weights do not fit its model: {some(missing)} missing, "
                f"{some(unexpected)} unexpected"
            )
        misfits = self.problems["misfits"]
        more = f" (and {len(misfits) - 1} more)" if misfits[1:] else ""
        return f"{self.folder}: {misfits[0]}{more}"


class NamedWeights(WeightSource):
    """A folder's weights under our names.

    Args:
        folder: for messages.
        weights: what it holds.
        shapes: our name and shape of every weight that it must hold.
        stored_name: our name -> the one in the files.
        ignored: stored names that may be there besides.
        tied: our name -> our other name, whose weight it shares where it is not stored itself.
        others: prefix of our names -> other files that hold the weights of these names.

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
        others: "Mapping[str, NamedWeights] | None" = None,
    ) -> None:
        self.folder, self._weights, self._shapes = folder, weights, dict(shapes)
        self._others = dict(others or {})
        held = set(weights.names())
        shapes = {name: shape for name, shape in shapes.items() if self._of(name) is self}
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

    def _of(self, name: str) -> "NamedWeights":
        return next((its for prefix, its in self._others.items() if name.startswith(prefix)), self)

    def names(self) -> list[str]:
        """Return our names, in the order of the shapes."""
        return list(self._shapes)

    def shape(self, name: str) -> torch.Size:
        """Return a weight's shape."""
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype that a weight comes in."""
        its = self._of(name)
        return its._weights.dtype(its._names[name])

    def stored(self, name: str) -> Tensor:
        """Return a weight in the dtype it comes in; it may be a view of the file."""
        its = self._of(name)
        return its._weights.stored(its._names[name])

    @property
    def fingerprint(self) -> str:
        """Hash of config.json and of samples of the files; see ``sampled_sha256``."""
        paths = [path for its in (self, *self._others.values()) for path in its._weights.paths]
        return sampled_sha256([self.folder / "config.json"], paths)

    def close(self) -> None:
        """Let go of the files."""
        for its in (self, *self._others.values()):
            its._weights.close()
