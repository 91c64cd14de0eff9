"""Somebody's weights under our names: all checked before any is read."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mobilellama.pretrain.hf.weight_files import StoredWeights
from mobilellama.vlm.formats.weights import NamedWeights, WrongWeightsError

WEIGHTS = {"a.w": torch.arange(6.0).view(2, 3), "a.b": torch.ones(2, dtype=torch.bfloat16)}
SHAPES = {f"ours.{name}": value.shape for name, value in WEIGHTS.items()}


def named(
    folder: Path, tensors: dict[str, torch.Tensor], shapes: dict[str, torch.Size], **options: Any
) -> NamedWeights:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file(tensors, folder / "model.safetensors")
    stored = StoredWeights(folder, "model", "Fix it")
    return NamedWeights(
        folder,
        stored,
        shapes,
        stored_name=lambda name: name.removeprefix("ours."),
        **options,
    )


def test_weights_are_given_by_our_names_as_stored_and_in_fp32(tmp_path: Path) -> None:
    weights = named(tmp_path / "x", WEIGHTS, SHAPES)
    assert weights.dtype("ours.a.b") == torch.bfloat16
    assert weights.stored("ours.a.b").dtype == torch.bfloat16
    value = weights.parameter("ours.a.w")
    assert value.dtype == torch.float32 and torch.equal(value, WEIGHTS["a.w"])
    value.zero_()  # a copy of its own
    assert torch.equal(weights.parameter("ours.a.w"), WEIGHTS["a.w"])


def test_all_that_is_missing_and_unexpected_is_in_the_error(tmp_path: Path) -> None:
    tensors = {f"other.{i}": torch.ones(1) for i in range(5)} | {"table": torch.ones(1)}
    with pytest.raises(WrongWeightsError) as error:
        named(tmp_path / "x", tensors, SHAPES, ignored=lambda name: name == "table")
    assert error.value.problems["missing"] == ["a.b", "a.w"]
    assert error.value.problems["unexpected"] == [f"other.{i}" for i in range(5)]
    assert "2 (a.b, a.w) missing" in str(error.value)
    assert "5 (other.0, other.1, other.2, ...) unexpected" in str(error.value)
    again = pickle.loads(pickle.dumps(error.value))  # it crosses from one process to another
    assert str(again) == str(error.value) and again.problems == error.value.problems


def test_shapes_and_dtypes_that_do_not_fit_are_all_in_the_error(tmp_path: Path) -> None:
    tensors = {"a.w": torch.ones(3, 2), "a.b": torch.ones(2, dtype=torch.int8)}
    with pytest.raises(WrongWeightsError) as error:
        named(tmp_path / "x", tensors, SHAPES)
    assert error.value.problems["misfits"] == [
        "'a.w' is 3 x 2, but its model wants 2 x 3",
        "'a.b' is stored as I8; fp32, bf16 and fp16 can be read",
    ]
    assert str(error.value).endswith("'a.w' is 3 x 2, but its model wants 2 x 3 (and 1 more)")


def test_what_may_be_ignored_is_named_and_what_is_tied_is_taken_from_the_other(
    tmp_path: Path,
) -> None:
    shapes = SHAPES | {"ours.head": torch.Size([2, 3])}
    weights = named(
        tmp_path / "x",
        WEIGHTS | {"table": torch.ones(1)},
        shapes,
        ignored=lambda name: name == "table",
        tied={"ours.head": "ours.a.w"},
    )
    assert weights.ignored == ["table"]
    assert torch.equal(weights.parameter("ours.head"), WEIGHTS["a.w"])
    own = WEIGHTS | {"head": torch.zeros(2, 3)}
    weights = named(tmp_path / "y", own, shapes, tied={"ours.head": "ours.a.w"})
    assert not weights.parameter("ours.head").any()  # it has one of its own


def test_a_part_may_come_from_other_files(tmp_path: Path) -> None:
    shapes = {"ours.a.w": torch.Size([2, 3])}
    alone = named(tmp_path / "x", {"a.w": WEIGHTS["a.w"]}, shapes)
    other = named(tmp_path / "y", {"t.w": torch.zeros(4)}, {"t.w": torch.Size([4])})
    whole = {"t.w": torch.Size([4])} | shapes
    both = named(tmp_path / "x", {"a.w": WEIGHTS["a.w"]}, whole, others={"t.": other})
    assert both.names() == ["t.w", "ours.a.w"] and both.shape("t.w") == (4,)
    assert both.parameter("t.w").tolist() == [0, 0, 0, 0]
    assert torch.equal(both.parameter("ours.a.w"), WEIGHTS["a.w"])
    assert both.fingerprint != alone.fingerprint
