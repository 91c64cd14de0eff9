"""No folder's code is run, nothing is asked, and the refusal is one sentence at every door."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from mobilellama.config import ConfigError, DataError, UserError
from mobilellama.files.pretrained import (
    load_causal_model,
    load_config,
    load_tokenizer,
    load_tower,
)
from mobilellama.pretrain.evaluation import harness
from mobilellama.pretrain.evaluation.scored_model import load_weights
from mobilellama.pretrain.generation.loading import load_model, read_config
from mobilellama.pretrain.hf.folder import HfFolder
from mobilellama.sft.chat.model_choice import ModelChoice
from mobilellama.vlm.formats.folder import open_folder
from mobilellama.vlm.formats.tower_folder import open_tower
from mobilellama.vlm.model import build_language_model
from tests.helpers.foreign_code import write_code, write_pickle
from tests.vlm.helpers.tiny_vlm import make_tower

RULE = "its config.json needs its own Python code (evil.Evil), which no command here runs"


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that code would make; what is asked on the console fails."""

    def ask(*_: object) -> str:
        raise AssertionError("asked on the console")

    monkeypatch.setattr("builtins.input", ask)
    return tmp_path / "canary"


@pytest.mark.parametrize(
    "door",
    [
        lambda folder: load_config(folder),
        lambda folder: load_causal_model(folder),
        lambda folder: harness.read_config(str(folder)),
        lambda folder: load_weights(str(folder), "cpu", "fp32"),
        lambda folder: read_config(str(folder)),
        lambda folder: load_model(ModelChoice(model=str(folder), dtype="fp32", device="cpu")),
        lambda folder: HfFolder(folder),
        lambda folder: open_folder(folder),
        lambda folder: open_tower(str(folder)),
    ],
)
def test_a_models_own_python_is_not_run(
    door: Callable[[Path], object], tmp_path: Path, canary: Path
) -> None:
    pytest.importorskip("lm_eval")
    folder = tmp_path / "model"
    write_code(folder, canary)
    with pytest.raises(ConfigError) as error:
        door(folder)
    assert error.value.args[1:3] == (str(folder), RULE)
    assert not canary.exists()


def test_a_tokenizers_own_python_is_not_run(tmp_path: Path, canary: Path) -> None:
    folder = tmp_path / "model"
    write_code(folder, canary)
    LlamaConfig().save_pretrained(folder)  # an architecture that transformers has
    with pytest.raises(ConfigError, match=r"its tokenizer_config.json needs its own Python code"):
        load_tokenizer(folder)
    assert not canary.exists()


def tiny_llama(folder: Path) -> Any:
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return model


def test_code_beside_an_architecture_that_transformers_has_is_not_needed(
    tmp_path: Path, canary: Path
) -> None:
    folder = tmp_path / "model"
    model = tiny_llama(folder)
    values = json.loads((folder / "config.json").read_text())
    write_code(folder, canary)
    code = json.loads((folder / "config.json").read_text())["auto_map"]
    (folder / "config.json").write_text(json.dumps(values | {"auto_map": code}))
    loaded = load_causal_model(folder)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert not canary.exists()


def test_a_causal_model_that_only_auto_map_names_is_not_run(canary: Path) -> None:
    """CLIP is known, but is no causal model: transformers would ask whether to run the code."""
    config = {"model_type": "clip", "auto_map": {"AutoModelForCausalLM": "evil.Evil"}}
    with pytest.raises(ConfigError, match="needs Python code of its own, and such code is not run"):
        build_language_model(config, "sdpa")


@pytest.mark.parametrize("way", ["zip", "old", "bare"])
def test_a_pickle_of_weights_is_not_run(tmp_path: Path, canary: Path, way: str) -> None:
    pytest.importorskip("lm_eval")
    folder = tmp_path / "model"
    tiny_llama(folder)
    (folder / "model.safetensors").unlink()
    write_pickle(folder / "pytorch_model.bin", canary, way=way)
    doors: list[Callable[[], object]] = [
        lambda: load_causal_model(folder),
        lambda: load_model(ModelChoice(model=str(folder), dtype="fp32", device="cpu")),
        lambda: HfFolder(folder),
        lambda: load_weights(str(folder), "cpu", "fp32"),
    ]
    said = set()
    for door in doors:
        with pytest.raises(UserError) as error:
            door()
        said.add(str(error.value))
    assert len(said) == 1
    assert "holds a pickle with more than tensors, which would run code" in said.pop()
    assert not canary.exists()


@pytest.mark.parametrize("name", ["parts/1.bin", "part.pkl", "weights", "../outside.bin"])
def test_a_pickle_that_an_index_names_is_told_alike(
    name: str, tmp_path: Path, canary: Path
) -> None:
    folder = tmp_path / "model"
    model = tiny_llama(folder)
    (folder / "model.safetensors").unlink()
    (folder / name).parent.mkdir(exist_ok=True)
    write_pickle(folder / name, canary)
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(model.state_dict(), name)}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"holds a pickle with more than tensors, which would run"):
        load_causal_model(folder)
    assert not canary.exists()


def test_weights_that_are_a_pickle_of_tensors_are_read(tmp_path: Path) -> None:
    import torch

    model = tiny_llama(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    loaded = load_causal_model(tmp_path / "model")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_a_kernel_of_the_hub_is_refused(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attn_implementation": "x/evil"}))
    for door in (load_causal_model, HfFolder):
        with pytest.raises(ConfigError, match="needs code from the Hub"):
            door(tmp_path / "model")


def test_no_command_takes_random_values_for_weights_that_are_missing_or_of_another_shape(
    tmp_path: Path,
) -> None:
    pytest.importorskip("lm_eval")
    import torch

    folder = tmp_path / "model"
    whole = tiny_llama(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torn = {name: torch.ones(1, 2) for name in [*whole][:4]}
    torch.save(torn, folder / "pytorch_model.bin")
    doors: list[Callable[[], object]] = [
        lambda: load_causal_model(folder),
        lambda: load_model(ModelChoice(model=str(folder), dtype="fp32", device="cpu")),
        lambda: load_weights(str(folder), "cpu", "fp32"),
    ]
    for door in doors:
        with pytest.raises(DataError, match=r"has shape \(1, 2\), but.*; and \d+ more\. Copy"):
            door()


def test_a_tower_with_a_weight_missing_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import CLIPVisionModel

    file = make_tower(tmp_path / "tower") / "model.safetensors"
    weights = load_file(file)
    loaded = load_tower(CLIPVisionModel, file.parent)
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())
    lost = next(name for name in weights if name.endswith("layers.1.mlp.fc1.weight"))
    faults = {"is missing": {}, r"has shape \(1,\), but": {lost: torch.ones(1)}}
    for fault, instead in faults.items():
        rest = {name: value for name, value in weights.items() if name != lost}
        save_file(rest | instead, file, metadata={"format": "pt"})
        with pytest.raises(DataError, match=rf"layers.1.mlp.fc1.weight {fault}"):
            load_tower(CLIPVisionModel, file.parent)
