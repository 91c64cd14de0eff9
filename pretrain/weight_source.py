"""Weights, wherever they come from: one type for all who write them and all who read them.

Sources that read something lie beside what they read:

    drawn at the start of a run   ``DrawnWeights``, here
    a checkpoint                  state/checkpoint_weights.py; its frozen file: state/frozen.py
    Hugging Face folders          hf/weight_files.py, hf/folder.py
    a run with adapters           sft/lora.py
    a published folder            vlm/formats/weights.py

A source is read tensor by tensor, so that there is never a second copy of a model in memory.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mobilellama.config import DataError
from mobilellama.files.atomic import sha256_of_json


class WeightSource(ABC):
    """Weights by name, read when they are asked for."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of all weights, in the order in which a file should have them."""

    @abstractmethod
    def shape(self, name: str) -> torch.Size:
        """Return a weight's shape, without reading it."""

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of what ``stored`` gives, without reading it."""

    @abstractmethod
    def stored(self, name: str) -> Tensor:
        """Return a weight in its own dtype. It may be a view of a file: do not write to it."""

    def parameter(self, name: str) -> Tensor:
        """Return a weight in fp32, a copy of its own."""
        return self.stored(name).to(torch.float32, copy=True)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """64 hexadecimal digits that tell these weights from others; part of a run's identity."""

    def verify(self, *, share: int = 0, shares: int = 1) -> None:
        """Check the bytes of every `shares`-th file, from the `share`-th, where files have hashes.

        Raises:
            DataError: a file's bytes are not those that were written.
        """
        del share, shares

    def close(self) -> None:  # noqa: B027  (a source without files has nothing to close)
        """Let go of the files."""


class ShapedWeights(WeightSource):
    """Weights in fp32 whose names and shapes come from the model, in its order."""

    def __init__(self, shapes: Mapping[str, torch.Size]) -> None:
        self._shapes = dict(shapes)

    def names(self) -> list[str]:
        """Return the names in the order of the shapes."""
        return list(self._shapes)

    def shape(self, name: str) -> torch.Size:
        """Return a weight's shape."""
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        """Return fp32."""
        del name
        return torch.float32


class DrawnWeights(ShapedWeights):
    """Weights that no file has yet: each is a function of its name, its shape and a seed."""

    def __init__(
        self,
        shapes: Mapping[str, torch.Size],
        draw: Callable[[str, torch.Size, int], Tensor],
        seed: int,
    ) -> None:
        """Draw weights as they are asked for.

        Args:
            shapes: name and shape of each.
            draw: (name, shape, seed) -> its value in fp32.
            seed: of all of them.
        """
        super().__init__(shapes)
        self._draw, self._seed = draw, seed

    def stored(self, name: str) -> Tensor:
        """Return a weight's first value."""
        return self._draw(name, self._shapes[name], self._seed)

    @property
    def fingerprint(self) -> str:
        """Hash of the seed, the names and the shapes."""
        shapes = {name: list(shape) for name, shape in self._shapes.items()}
        return sha256_of_json([self._seed, shapes])


class HeldWeights(WeightSource):
    """Weights that are in memory already, such as a small adapter's."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    def names(self) -> list[str]:
        """Return the names in the order in which they were given."""
        return list(self._tensors)

    def shape(self, name: str) -> torch.Size:
        """Return a weight's shape."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """Return a weight's dtype."""
        return self._tensors[name].dtype

    def stored(self, name: str) -> Tensor:
        """Return a weight; it is not copied."""
        return self._tensors[name]

    @property
    def fingerprint(self) -> str:
        """Hash of all names and bytes."""
        digest = hashlib.sha256()
        for name, tensor in self._tensors.items():
            digest.update(f"\n{name} {dims(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(
                tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
            )
        return digest.hexdigest()


class RenamedWeights(WeightSource):
    """Another source under other names, in the order of these; what they leave out is not there."""

    def __init__(self, source: WeightSource, names: Mapping[str, str]) -> None:
        """Rename weights.

        Args:
            source: what is read.
            names: name here -> name in the source. Two may be of one weight.
        """
        self._source, self._names = source, dict(names)

    def names(self) -> list[str]:
        """Return the new names."""
        return list(self._names)

    def shape(self, name: str) -> torch.Size:
        """Return a weight's shape."""
        return self._source.shape(self._names[name])

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype that a weight comes in."""
        return self._source.dtype(self._names[name])

    def stored(self, name: str) -> Tensor:
        """Return a weight in the dtype it comes in."""
        return self._source.stored(self._names[name])

    def parameter(self, name: str) -> Tensor:
        """Return a weight in fp32."""
        return self._source.parameter(self._names[name])

    @property
    def fingerprint(self) -> str:
        """The source's: names are not part of it."""
        return self._source.fingerprint

    def verify(self, *, share: int = 0, shares: int = 1) -> None:
        """Verify the source."""
        self._source.verify(share=share, shares=shares)

    def close(self) -> None:
        """Close the source."""
        self._source.close()


class LayeredWeights(WeightSource):
    """Several sources as one; a weight that several have comes from the last of them."""

    def __init__(self, *sources: WeightSource) -> None:
        self._sources = sources
        self._owners = {name: source for source in sources for name in source.names()}

    def names(self) -> list[str]:
        """Return the names of all, each once, in the order of the sources."""
        return list(self._owners)

    def shape(self, name: str) -> torch.Size:
        """Return a weight's shape."""
        return self._owners[name].shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype that a weight comes in."""
        return self._owners[name].dtype(name)

    def stored(self, name: str) -> Tensor:
        """Return a weight in the dtype it comes in."""
        return self._owners[name].stored(name)

    def parameter(self, name: str) -> Tensor:
        """Return a weight in fp32."""
        return self._owners[name].parameter(name)

    @property
    def fingerprint(self) -> str:
        """Hash of the sources' fingerprints, in their order."""
        return sha256_of_json([source.fingerprint for source in self._sources])

    def verify(self, *, share: int = 0, shares: int = 1) -> None:
        """Verify all sources."""
        for source in self._sources:
            source.verify(share=share, shares=shares)

    def close(self) -> None:
        """Close all sources."""
        for source in self._sources:
            source.close()


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    """Return name and shape of every parameter of a model, which may be on ``meta``."""
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def require_shapes(source: WeightSource, shapes: Mapping[str, torch.Size]) -> None:
    """Raise DataError unless a source has all of these weights, in these shapes.

    Copying a weight of another shape would not always fail: torch repeats one that is smaller.
    """
    held = {*source.names()}
    for name, shape in shapes.items():
        if name not in held:
            raise DataError(f"the weights that the model begins with lack '{name}'")
        if (found := source.shape(name)) != shape:
            raise DataError(f"'{name}' is {dims(found)}, but the model wants {dims(shape)}")


@torch.no_grad()
def fill(model: nn.Module, source: WeightSource) -> None:
    """Set all parameters of a model from a source, in the model's own dtype.

    Raises:
        DataError: the source lacks one, or has it in another shape.
    """
    require_shapes(source, shapes_of(model))
    for name, parameter in model.named_parameters():
        parameter.copy_(source.parameter(name))


def dims(shape: torch.Size) -> str:
    """Return a shape for a message."""
    return " x ".join(map(str, shape))
