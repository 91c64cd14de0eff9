"""A model loaded to generate: whole, on its device, in the dtype that was asked for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mobilellama.config import ConfigError, DataError
from mobilellama.pretrain.generation.loading import (
    HfChoice,
    find_dtype,
    load_model,
    read_config,
    unreadable,
)
from tests.pretrain.helpers.hf_llama import write_llama


def choice(folder: Path, **fields: Any) -> HfChoice:
    values: dict[str, Any] = {"model": str(folder), "device": "cpu"} | fields
    return HfChoice(**values)


@pytest.mark.parametrize(
    ("stored", "asked", "loaded"),
    [
        (torch.float16, "auto", torch.float32),
        (torch.bfloat16, "auto", torch.bfloat16),
        (torch.float32, "auto", torch.float32),
        (torch.float32, "bf16", torch.bfloat16),
        (torch.float16, "fp16", torch.float16),
    ],
)
def test_weights_load_as_asked_and_half_precision_not_on_a_cpu(
    tmp_path: Path, stored: torch.dtype, asked: str, loaded: torch.dtype
) -> None:
    made = choice(write_llama(tmp_path / "stored", dtype=stored), dtype=asked)
    model = load_model(made)
    assert model.dtype == loaded and not model.training
    assert getattr(torch, find_dtype(made)) == loaded


def test_missing_weights_are_an_error_and_not_random(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "torn") / "model.safetensors"
    whole = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({n: w for n, w in whole.items() if n != name}, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"layers\.1\.mlp\.up_proj\.weight is missing\. Copy the"):
        load_model(choice(path.parent))
    save_file(whole | {name: torch.ones(7, 5)}, path, metadata={"format": "pt"})
    with pytest.raises(DataError) as error:
        load_model(choice(path.parent))
    assert str(error.value) == (
        f"{path.parent}: the weights are not those of config.json: {name} has shape (7, 5), but "
        f"config.json says {tuple(whole[name].shape)}. Copy the folder again, or correct "
        "config.json"
    )


def test_a_folder_that_transformers_cannot_read_is_told_in_its_words(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        ConfigError, match=r"^model = .*empty: cannot be read \(.* as an export is\.$"
    ):
        load_model(choice(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    with pytest.raises(ConfigError, match=r"empty: cannot be read \("):
        read_config(str(folder))
    told = str(unreadable("m", "cannot be read", ValueError("two\nlines.")))
    assert told.startswith("model = m: cannot be read (two lines). Give a folder of")
