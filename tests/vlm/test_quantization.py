"""A language model's weights in 8 and 4 bits."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mobilellama.config import ConfigError
from mobilellama.vlm.chat.assistant import Assistant, load
from mobilellama.vlm.chat.question import Question
from mobilellama.vlm.quantization import put_quantized
from tests.vlm.helpers.assistants import make_assistant, picture

WHAT = "What is it?"


def asking(*numbers: int, text: str = WHAT) -> Question:
    images = tuple(picture(number) for number in numbers)
    return Question(images=images, text="<image>\n" * len(images) + text)


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_without_bitsandbytes_the_remedy_is_named(
    assistant_folder: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"quantization = .bit: needs bitsandbytes, .*\[gpu\]"):
        load(assistant_folder, device="cpu", quantization=kind)


@pytest.mark.parametrize(("kind", "most"), [("8bit", 0.02), ("4bit", 0.15)])
def test_quantised_layers_are_the_language_models_and_compute_nearly_the_same(
    assistant: Assistant, assistant_folder: Path, kind: Any, most: float
) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    quantized = load(assistant_folder, device="cpu", quantization=kind)
    layer = {"8bit": bitsandbytes.nn.Linear8bitLt, "4bit": bitsandbytes.nn.Linear4bit}[kind]
    names = {n for n, m in quantized.model.named_modules() if isinstance(m, layer)}
    wanted = {
        name
        for name, module in assistant.model.language_model.model.named_modules(
            prefix="language_model.model"
        )
        if type(module) is torch.nn.Linear
    }
    assert names == wanted and len(names) == 14
    whole = dict(assistant.model.named_parameters())
    for name, weight in quantized.model.named_parameters():
        if name.rpartition(".")[0] in names:
            assert weight.dtype in (torch.int8, torch.uint8)
            assert weight.nbytes == whole[name].numel() // (1 if kind == "8bit" else 2)
        else:
            assert torch.equal(weight, whole[name])
    torch.manual_seed(0)
    for name in names:
        its, exact = (one.model.get_submodule(name) for one in (quantized, assistant))
        x = torch.randn(9, exact.get_parameter("weight").shape[1])
        with torch.inference_mode():
            error = (its(x) - exact(x)).norm() / exact(x).norm()
        assert 0 < error < most, name
    questions = [asking(0), asking(1, 2), asking()]
    together = quantized.answer_batch(questions, max_new_tokens=8)
    assert len(together) == 3 and all(reply.text for reply in together)


def test_4_bits_compute_layers_of_any_number_of_rows() -> None:
    """bitsandbytes' kernel of newer CPUs takes multiples of 32 alone."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    for outputs, inputs in ((48, 64), (8, 192), (40, 128), (64, 64)):
        weight = torch.randn(outputs, inputs)
        layer = bitsandbytes.nn.Linear4bit(
            inputs, outputs, bias=False, compute_dtype=torch.float32, quant_type="nf4"
        ).eval()
        put_quantized(layer, weight, torch.device("cpu"))
        for rows in (1, 9):
            x = torch.randn(rows, inputs)
            with torch.inference_mode():
                error = (layer(x) - x @ weight.T).norm() / (x @ weight.T).norm()
            assert 0 < error < 0.15


def test_4_bits_of_a_width_without_whole_blocks_are_refused(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    folder = make_assistant(tmp_path, small_tokenizer)
    config = json.loads((folder / "config.json").read_text())
    config["language"]["intermediate_size"] = 96
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if name.startswith("language_model.") and ".mlp." in name:
            cut = weight[:, :96] if "down_proj" in name else weight[:96]
            weights[name] = cut.contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError) as caught:
        load(folder, device="cpu", quantization="4bit")
    assert str(caught.value) == (
        "quantization = 4bit: needs widths that are multiples of 64, and "
        "language_model.model.layers.0.mlp.down_proj is 96 wide. Use 8bit or none."
    )
