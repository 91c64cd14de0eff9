"""Weights of an export: rounded once, in files of a size."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mobilellama.config import ConfigError, DataError
from mobilellama.pretrain.hf.weights import cast, narrowest_dtype, plan_shards
from tests.pretrain.helpers.trained import trained_model


def test_bf16_weights_are_the_masters_rounded(exports: dict[str, Path], tiny_run: Path) -> None:
    masters = dict(trained_model(tiny_run, 4).named_parameters())
    with safe_open(exports["bf16"] / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(masters)
        assert file.metadata() == {"format": "pt"}
        for name, master in masters.items():
            assert torch.equal(file.get_tensor(name), master.detach().bfloat16())


def test_shards_hold_every_parameter_once_and_keep_to_the_size(exports: dict[str, Path]) -> None:
    folder = exports["sharded"]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    whole = exports["fp32"] / "model.safetensors"
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    assert len(shards) > 3 and not (folder / "model.safetensors").exists()
    total_bytes = 0
    found: dict[str, str] = {}
    with safe_open(whole, framework="pt") as file:
        for shard in shards:
            with safe_open(shard, framework="pt") as part:
                names = list(part.keys())
                held = sum(part.get_tensor(name).nbytes for name in names)
                assert held <= 1e5 or len(names) == 1  # 1e-4 GB; a larger parameter is alone
                assert all(torch.equal(part.get_tensor(n), file.get_tensor(n)) for n in names)
                total_bytes += held
                found |= dict.fromkeys(names, shard.name)
        assert index["weight_map"] == found and set(found) == set(file.keys())
    assert (
        index["metadata"]["total_size"] == total_bytes == 4 * index["metadata"]["total_parameters"]
    )


def test_weights_that_a_dtype_cannot_hold_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"dtype = fp16: 'w' holds 7e\+04, above the largest 6.55e\+04"
    ):
        cast("w", torch.tensor([1.0, -7e4]), torch.float16)
    with pytest.raises(DataError, match="parameter 'w' holds NaN or infinity"):
        cast("w", torch.tensor([1.0, float("nan")]), torch.bfloat16)
    assert torch.equal(
        cast("w", torch.tensor([7e4]), torch.bfloat16), torch.tensor([7e4]).bfloat16()
    )


@pytest.mark.parametrize(
    ("dtypes", "name"),
    [
        ([torch.bfloat16], "bf16"),
        ([torch.float16, torch.float16], "fp16"),
        ([torch.float16, torch.bfloat16], "fp32"),  # neither holds the other's values
        ([torch.bfloat16, torch.float32], "fp32"),
    ],
)
def test_the_narrowest_dtype_rounds_no_value(dtypes: list[torch.dtype], name: str) -> None:
    assert narrowest_dtype(dtypes) == name


def test_a_parameter_above_the_size_gets_a_file_of_its_own() -> None:
    shapes = {"a": torch.Size([4]), "b": torch.Size([4]), "c": torch.Size([100])}
    plan = plan_shards(shapes, torch.bfloat16, 16, "model{suffix}.safetensors")
    assert sorted(plan.filename_to_tensors.values()) == [["a", "b"], ["c"]]
    assert plan.metadata["total_size"] == 2 * 108
    whole = plan_shards(shapes, torch.bfloat16, 10_000, "model{suffix}.safetensors")
    assert list(whole.filename_to_tensors) == ["model.safetensors"] and not whole.is_sharded
