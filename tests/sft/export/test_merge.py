"""Merging: base plus adapter in one folder, whoever made the two."""

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mobilellama.config import ConfigError
from mobilellama.files.json_lines import UTF8_MARK
from mobilellama.pretrain.hf.export_check import probe_ids
from mobilellama.pretrain.hf.folder import HfFolder
from mobilellama.pretrain.weight_source import HeldWeights, LayeredWeights
from mobilellama.sft.export.adapter_folder import peft_logits
from mobilellama.sft.export.merge import check_merge
from mobilellama.sft.export.merge_config import Config
from mobilellama.sft.main import main
from tests.pretrain.conftest import Command

IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def adapter(tiny_chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of peft's on the tiny chat model, with B drawn so that it changes the model."""
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_chat_model, dtype=torch.float32),
        peft.LoraConfig(
            task_type="CAUSAL_LM", r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"]
        ),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.save_pretrained(str(folder))
    return folder


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(input_ids=IDS).logits


def merge(*arguments: object) -> int:
    return main(["merge", *map(str, arguments)])


@pytest.fixture(scope="module")
def merged(adapter: Path, tiny_chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("merged") / "fp32"
    arguments = ["--adapter", adapter, "--base", tiny_chat_model, "--output", output]
    assert merge(*arguments, "--dtype", "fp32") == 0
    return output


def test_the_merged_folder_computes_what_base_plus_adapter_does(
    merged: Path, adapter: Path, tiny_chat_model: Path
) -> None:
    expected = peft_logits(tiny_chat_model, adapter, IDS)
    assert (logits(tiny_chat_model) - expected).abs().max() > 0.01 * expected.abs().max()
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)


def test_weights_are_merged_in_fp32_and_rounded_once(
    merged: Path, adapter: Path, tiny_chat_model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output = tmp_path / "bf16"
    arguments = ["--adapter", adapter, "--base", tiny_chat_model, "--output", output]
    assert merge(*arguments, "--dtype", "bf16") == 0
    said = capsys.readouterr().out
    assert "Merged in fp32, the logits are within" in said and "rounded to bf16, within" in said
    exact, rounded, base = HfFolder(merged), HfFolder(output), HfFolder(tiny_chat_model)
    changed = set()
    for name in exact.names():
        assert torch.equal(rounded.stored(name), exact.stored(name).bfloat16())
        if not torch.equal(exact.stored(name), base.stored(name).float()):
            changed.add(name.split(".")[-2])
    assert changed == {"q_proj", "down_proj"}


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.float16, "float16"), (torch.float32, "float32")]
)
def test_what_has_no_adapter_stays_as_it_is_in_the_bases_own_dtype(
    adapter: Path, tiny_chat_model: Path, tmp_path: Path, dtype: torch.dtype, name: str
) -> None:
    base, output = tmp_path / "base", tmp_path / "out"
    shutil.copytree(tiny_chat_model, base)
    # Values that bf16 would round.
    generator = torch.Generator().manual_seed(2)
    weights = {
        name: (torch.randn(value.shape, generator=generator) * 0.05).to(dtype)
        for name, value in load_file(base / "model.safetensors").items()
    }
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    arguments = ["--adapter", adapter, "--base", base, "--output", output]
    assert merge(*arguments, "--check", "false") == 0
    found = load_file(output / "model.safetensors")
    assert {value.dtype for value in found.values()} == {dtype}
    same = {name.split(".")[-2] for name, value in weights.items() if value.equal(found[name])}
    assert not same & {"q_proj", "down_proj"} and {"embed_tokens", "norm", "k_proj"} <= same
    assert json.loads((output / "config.json").read_text())["dtype"] == name


def test_the_folder_keeps_the_tokenizer_its_template_and_the_stops(
    merged: Path, tiny_chat_model: Path
) -> None:
    ours, theirs = (AutoTokenizer.from_pretrained(f) for f in (merged, tiny_chat_model))
    messages = [{"role": "user", "content": "What is  a list?"}]
    assert ours.apply_chat_template(messages, tokenize=False) == theirs.apply_chat_template(
        messages, tokenize=False
    )
    assert ours("a  b").input_ids == theirs("a  b").input_ids
    generation = json.loads((merged / "generation_config.json").read_text())
    assert generation == json.loads((tiny_chat_model / "generation_config.json").read_text())
    config = json.loads((merged / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "float32"
    assert "rank 4" in (merged / "README.md").read_text()


def test_folders_whose_json_an_editor_on_windows_saved_are_merged_alike(
    adapter: Path, tiny_chat_model: Path, merged: Path, tmp_path: Path
) -> None:
    """And what is written has no byte order mark, which transformers refuses."""
    for name, folder in (("adapter", adapter), ("base", tiny_chat_model)):
        shutil.copytree(folder, tmp_path / name)
        for path in (tmp_path / name).glob("*.json"):
            path.write_bytes(UTF8_MARK + path.read_bytes().replace(b"\n", b"\r\n"))
    output = tmp_path / "out"
    arguments = ["--adapter", tmp_path / "adapter", "--base", tmp_path / "base"]
    assert merge(*arguments, "--output", output, "--dtype", "fp32") == 0
    assert torch.equal(logits(output), logits(merged))
    assert not any(path.read_bytes().startswith(UTF8_MARK) for path in output.glob("*.json"))


def test_the_adapters_own_tokenizer_goes_before_the_bases(
    adapter: Path, tiny_chat_model: Path, tmp_path: Path
) -> None:
    chat = tmp_path / "adapter"
    chat.mkdir()
    for source, names in (
        (adapter, ["adapter_config.json", "adapter_model.safetensors"]),
        (tiny_chat_model, ["tokenizer.json", "tokenizer_config.json"]),
    ):
        for name in names:
            (chat / name).write_bytes((source / name).read_bytes())
    (chat / "chat_template.jinja").write_text("{{ 'another template' }}")
    output = tmp_path / "out"
    arguments = ["--adapter", chat, "--base", tiny_chat_model, "--output", output]
    assert merge(*arguments, "--check", "false") == 0
    assert (output / "chat_template.jinja").read_text() == "{{ 'another template' }}"
    # What the adapter's folder does not say is the base's.
    assert (output / "generation_config.json").is_file()


def test_a_merge_that_moves_the_logits_is_refused(
    merged: Path, tiny_chat_model: Path, adapter: Path
) -> None:
    folder = HfFolder(merged)
    config = Config(output="o", adapter="a", base="b", dtype="fp32")

    name = "model.layers.1.mlp.down_proj.weight"  # its update is off by a hundredth
    scaled = LayeredWeights(folder, HeldWeights({name: folder.parameter(name) * 1.01}))

    def unmerged() -> torch.Tensor:
        return peft_logits(tiny_chat_model, adapter, probe_ids(folder.config))

    check_merge(config, merged, folder, folder.config, unmerged)
    with pytest.raises(RuntimeError, match="base plus adapter: merged logits differ from ours by"):
        check_merge(config, merged, scaled, folder.config, unmerged)


def test_a_base_with_a_tied_head_is_written_untied(
    adapter: Path, tiny_chat_model: Path, tmp_path: Path
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_chat_model, dtype=torch.float32)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    tied = tmp_path / "tied"
    model.save_pretrained(tied)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tied / name).write_bytes((tiny_chat_model / name).read_bytes())
    assert "lm_head.weight" not in (tied / "model.safetensors").read_bytes()[:5000].decode(
        errors="replace"
    )
    output = tmp_path / "out"
    arguments = ["--adapter", adapter, "--base", tied, "--output", output, "--dtype", "fp32"]
    assert merge(*arguments) == 0
    torch.testing.assert_close(
        logits(output), peft_logits(tied, adapter, IDS), rtol=1e-4, atol=1e-4
    )


def test_wrong_paths_are_told_and_nothing_is_written(
    adapter: Path, tiny_chat_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"base = .*: has no config\.json"):
        merge("--adapter", adapter, "--base", adapter, "--output", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"adapter = .*: has no adapter_config\.json"):
        merge("--adapter", tmp_path, "--base", tiny_chat_model, "--output", tmp_path / "out")
    with pytest.raises(ConfigError, match="is neither a checkpoint nor a run's folder"):
        merge("--checkpoint", tiny_chat_model, "--output", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit_bytes", [4_096, 60_000])  # of a copied file, of the weights
def test_a_full_disk_is_told_with_the_folder_and_leaves_nothing(
    command: Command, adapter: Path, tiny_chat_model: Path, tmp_path: Path, limit_bytes: int
) -> None:
    output = tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        outcome = command(
            "sft", "merge", "--adapter", adapter, "--base", tiny_chat_model, "--output", output
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome.code == 2
    assert f"mobilellama: error: {output}: the disk is full (File too large). " in outcome.err
    assert list(tmp_path.iterdir()) == []
