"""Weights by name: drawn, held, under other names, one source over another."""

import hashlib

import pytest
import torch
from torch import nn

from mobilellama.config import DataError
from mobilellama.files.atomic import sha256_of_json
from mobilellama.pretrain.weight_source import (
    DrawnWeights,
    HeldWeights,
    LayeredWeights,
    RenamedWeights,
    fill,
    require_shapes,
    shapes_of,
)

HELD = {"a": torch.arange(6.0).view(2, 3).bfloat16(), "b": torch.ones(3)}
SHAPES = {"a": torch.Size([2, 3]), "b": torch.Size([3])}


class Watched(HeldWeights):
    """Remembers what it was asked to verify and whether it is closed."""

    share, is_closed = (-1, -1), False

    def verify(self, *, share: int = 0, shares: int = 1) -> None:
        self.share = share, shares

    def close(self) -> None:
        self.is_closed = True


def test_a_parameter_is_an_fp32_copy_of_what_is_stored() -> None:
    source = HeldWeights(HELD)
    assert source.names() == ["a", "b"]
    for name, value in HELD.items():
        assert source.stored(name) is value
        assert (source.shape(name), source.dtype(name)) == (value.shape, value.dtype)
        copy = source.parameter(name)
        assert copy.dtype == torch.float32 and torch.equal(copy, value.float())
        copy.zero_()
        assert value.any()


def test_drawn_weights_depend_on_name_shape_and_seed_alone() -> None:
    def draw(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
        return torch.full(shape, float(len(name) + seed))

    source = DrawnWeights(SHAPES, draw, 5)
    assert source.names() == ["a", "b"] and source.shape("a") == (2, 3)
    assert source.dtype("a") == torch.float32
    assert torch.equal(source.parameter("b"), torch.full((3,), 6.0))
    others = [
        DrawnWeights(SHAPES, draw, 6),
        DrawnWeights(SHAPES | {"a": torch.Size([3, 2])}, draw, 5),
        DrawnWeights({"a": SHAPES["a"]}, draw, 5),
    ]
    fingerprints = {its.fingerprint for its in (source, *others)}
    assert len(fingerprints) == 4
    assert DrawnWeights(SHAPES, draw, 5).fingerprint == source.fingerprint


def test_the_fingerprint_of_held_weights_sees_a_bit_a_name_and_a_dtype() -> None:
    def of(tensors: dict[str, torch.Tensor]) -> str:
        return HeldWeights(tensors).fingerprint

    digest = hashlib.sha256(b"\nb 3 torch.float32\n" + HELD["b"].numpy().tobytes())
    assert of({"b": HELD["b"]}) == digest.hexdigest()
    flipped = HELD["b"].clone()
    flipped[2] = 1 + 2**-23
    changed = [{"b": flipped}, {"c": HELD["b"]}, {"b": HELD["b"].bfloat16()}]
    assert len({of({"b": HELD["b"]}), *map(of, changed)}) == 4


def test_renamed_weights_are_those_of_the_source_in_the_order_of_the_new_names() -> None:
    source = Watched(HELD)
    renamed = RenamedWeights(source, {"y": "b", "x": "a", "z": "b"})
    assert renamed.names() == ["y", "x", "z"]
    assert renamed.stored("z") is HELD["b"] and renamed.dtype("x") == torch.bfloat16
    assert renamed.shape("x") == (2, 3) and renamed.parameter("x").dtype == torch.float32
    assert renamed.fingerprint == source.fingerprint
    renamed.verify(share=1, shares=3)
    renamed.close()
    assert source.share == (1, 3) and source.is_closed


def test_a_weight_that_several_have_comes_from_the_last_and_keeps_its_place() -> None:
    first, last = Watched(HELD), Watched({"c": torch.zeros(1), "a": torch.zeros(2, 3)})
    layered = LayeredWeights(first, last)
    assert layered.names() == ["a", "b", "c"]
    assert layered.stored("a") is last.stored("a") and layered.stored("b") is HELD["b"]
    assert (layered.dtype("a"), layered.shape("b")) == (torch.float32, (3,))
    assert not layered.parameter("a").any()
    assert layered.fingerprint == sha256_of_json([first.fingerprint, last.fingerprint])
    layered.verify(share=2, shares=4)
    layered.close()
    for source in (first, last):
        assert source.share == (2, 4) and source.is_closed


def test_a_model_is_filled_and_one_that_does_not_fit_is_refused() -> None:
    model = nn.Linear(3, 2)
    weights = {"weight": HELD["a"], "bias": torch.tensor([7.0, 8.0])}
    fill(model, HeldWeights(weights))
    assert shapes_of(model) == {name: value.shape for name, value in weights.items()}
    assert torch.equal(model.weight, HELD["a"].float()) and model.bias.tolist() == [7, 8]
    with pytest.raises(DataError, match=r"^the weights that the model begins with lack 'bias'$"):
        fill(model, HeldWeights({"weight": HELD["a"]}))
    with pytest.raises(DataError, match=r"^'bias' is 1, but the model wants 2$"):
        require_shapes(HeldWeights(weights | {"bias": torch.ones(1)}), shapes_of(model))
