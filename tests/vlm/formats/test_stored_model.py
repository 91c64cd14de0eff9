"""A stored model, opened and loaded: in which dtype, and what tells it from others."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mobilellama.vlm.chat.assistant import AssistantChoice, load, settings_of
from mobilellama.vlm.formats.stored_model import open_model
from tests.vlm.helpers.assistants import make_assistant


@pytest.mark.parametrize(
    ("stored", "asked", "loaded"),
    [
        (torch.float16, "auto", torch.float32),
        (torch.bfloat16, "auto", torch.bfloat16),
        (torch.float32, "bf16", torch.bfloat16),
    ],
)
def test_weights_load_as_asked_and_the_rest_stays(
    small_tokenizer: Path, tmp_path: Path, stored: torch.dtype, asked: Any, loaded: torch.dtype
) -> None:
    folder = make_assistant(tmp_path, small_tokenizer, dtype=stored)
    choice = AssistantChoice(model=str(folder), device="cpu", dtype=asked)
    model = load(choice).model
    assert {weight.dtype for weight in model.parameters()} == {loaded}
    assert not any(weight.requires_grad for weight in model.parameters())
    assert not any(module.training for module in model.modules())
    # Rotary angles of half precision would turn late positions wrongly.
    rotary = dict(model.named_buffers())["language_model.model.rotary_emb.inv_freq"]
    assert rotary.dtype == torch.float32
    held = load_file(folder / "model.safetensors")
    for name, weight in model.named_parameters():
        assert torch.equal(weight, held[name].to(loaded))
    assert settings_of(choice, open_model(str(folder)))["dtype"] == str(loaded)[6:]


def test_a_model_is_known_by_all_that_decides_its_answers(
    assistant_folder: Path, tmp_path: Path
) -> None:
    def settings(folder: Path, **fields: Any) -> dict[str, Any]:
        choice = AssistantChoice(model=str(folder), device="cpu", **fields)
        return settings_of(choice, open_model(str(folder), template=choice.template))

    here = settings(assistant_folder)
    assert here["dtype"] == "float32"
    moved = tmp_path / "moved"
    shutil.copytree(assistant_folder, moved)
    assert settings(moved) == here
    assert settings(moved, template="vicuna_v1") == here
    assert settings(moved, template="plain") | {"template": here["template"]} == here
    assert settings(moved, template="plain") != here
    assert settings(moved, dtype="bf16")["dtype"] == "bfloat16"
    assert settings(moved, quantization="8bit")["quantization"] == "8bit"
    (moved / "preprocessor_config.json").write_text("{}")
    assert settings(moved)["model_sha256"] != here["model_sha256"]
