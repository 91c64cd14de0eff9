"""What SFT exports: a chat model that transformers alone talks with, or an adapter for peft."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mobilellama.config import ConfigError, UserError
from mobilellama.pretrain.hf.export_check import probe_ids
from mobilellama.pretrain.hf.folder import HfFolder
from mobilellama.pretrain.main import main as pretrain_main
from mobilellama.pretrain.model import build_on
from mobilellama.run_folder import RunFolder
from mobilellama.sft.chat.folder import check_chat_ids
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.labels import encode_prompt
from mobilellama.sft.data.template import read_template
from mobilellama.sft.export.adapter_folder import AdapterFolder, peft_logits
from mobilellama.sft.finetuned import open_finetuned
from mobilellama.sft.main import main
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.hf_tokenizers import write_tokenizer
from tests.helpers.ranks import run_ranks
from tests.helpers.sealed import edit_sealed
from tests.pretrain.helpers.hub_server import HubServer
from tests.pretrain.hf.test_hub import hub_environment
from tests.sft.helpers.tiny_chat_model import tiny_llama, write_tiny_chat_model
from tests.sft.helpers.tiny_sft import finetune_tiny, prepare_tiny

pytestmark = pytest.mark.slow  # each trains, in processes of its own

LORA = {"lora.rank": 4, "lora.alpha": 8, "lora.targets": "[q_proj,v_proj,down_proj]"}
TURNS = (Turn("user", "What is  a list?"), Turn("assistant", " One\n of these."), Turn("user", "?"))
MESSAGES = [{"role": turn.role, "content": turn.content} for turn in TURNS]


@pytest.fixture(scope="module")
def base(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model's folder, which knows no chat template."""
    folder = tmp_path_factory.mktemp("base") / "tiny_base"
    return write_tiny_chat_model(folder, small_tokenizer, chat_template=None)


@pytest.fixture(scope="module")
def dataset(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny(tmp_path_factory.mktemp("data"), small_tokenizer)


@pytest.fixture(scope="module")
def full_run(base: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("full") / "run"
    run_ranks(finetune_tiny, 1, base, dataset, run)
    return run


@pytest.fixture(scope="module")
def lora_run(base: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("lora") / "run"
    run_ranks(finetune_tiny, 1, base, dataset, run, LORA)
    return run


def export(run: Path, output: Path, *more: object) -> Path:
    arguments = ["--checkpoint", run, "--output", output, *more]
    assert main(["export", *map(str, arguments)]) == 0
    return output


@pytest.fixture(scope="module")
def model(full_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full run's export, in fp32."""
    return export(full_run, tmp_path_factory.mktemp("exports") / "model", "--dtype", "fp32")


@pytest.fixture(scope="module")
def adapter(lora_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(lora_run, tmp_path_factory.mktemp("exports") / "adapter")


def logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_transformers_computes_the_finetuned_models_logits(
    model: Path, full_run: Path, base: Path
) -> None:
    finetuned = open_finetuned(str(full_run))
    ours = build_on(torch.device("cpu"), finetuned.model)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(finetuned.checkpoint.parameter(name, parameter.shape))
        ids = probe_ids(finetuned.model)
        expected = ours.logits(ids)
    torch.testing.assert_close(logits(model, ids), expected, rtol=1e-4, atol=1e-4)
    assert (logits(base, ids) - expected).abs().max() > 0.01 * expected.abs().max()


def test_the_chat_template_gives_the_ids_of_training(model: Path, small_tokenizer: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(model)
    expected = encode_prompt(read_template("vicuna_v1"), Tokenizer(small_tokenizer), TURNS)
    for turns in (TURNS, TURNS[:1]):
        expected = encode_prompt(read_template("vicuna_v1"), Tokenizer(small_tokenizer), turns)
        found = loaded.apply_chat_template(
            MESSAGES[: len(turns)], add_generation_prompt=True, return_dict=False
        )
        assert found == expected.tolist()
    # The template begins with <s>, so training saw it, and so does plain text.
    assert loaded("list").input_ids[0] == 1
    assert loaded.eos_token == "</s>" and loaded.pad_token == "<unk>"


def test_generation_starts_and_stops_as_training_did(model: Path) -> None:
    generation = json.loads((model / "generation_config.json").read_text())
    assert {key: generation[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")} == {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def test_a_chat_with_a_run_is_the_chat_with_its_export(
    model: Path,
    full_run: Path,
    lora_run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def chat(path: Path, *more: str) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("What is a list?\nAnd then?\n"))
        words = ["--model", str(path), "--temperature", "0", "--max_new_tokens", "12", *more]
        assert main(["chat", *words]) == 0
        return capsys.readouterr().out

    said = chat(model)
    newest = RunFolder(full_run).checkpoint(4)
    assert len(said) > 2 and said == chat(full_run) == chat(newest)
    assert chat(lora_run) == chat(lora_run, "--template", "vicuna_v1")


def test_the_card_says_how_it_was_made_and_how_to_talk_to_it(
    model: Path, adapter: Path, full_run: Path
) -> None:
    card = (model / "README.md").read_text()
    identity = open_finetuned(str(full_run)).checkpoint.manifest.identity
    facts = [
        "a finetuning of `tiny_base`",
        "apply_chat_template(",
        "AutoModelForCausalLM.from_pretrained(path)",
        "mobilellama sft chat model",
        "USER: QUESTION ASSISTANT: ANSWER</s>USER: NEXT ASSISTANT:",
        "generation stops at `</s>` (2)",
        "| steps | 4 |",
        "| rows seen | 16,",
        "| batch | 4 rows of 128 tokens |",
        "| trained | all parameters |",
        "| learning rate | warm-up to 0.01 over 1 step, then cosine to 0 at step 4 |",
        "| weights | fp32, rounded from fp32 masters |",
        identity["data.fingerprint"],
    ]
    assert [fact for fact in facts if fact not in card] == []
    records = RunFolder(full_run).read_metrics()
    loss, heldout = (
        next(record[key] for record in reversed(records) if key in record)
        for key in ("loss", "validation_loss")
    )
    assert f"| all | {loss:.4f} | {heldout:.4f} |" in card
    assert "It learnt from the conversations of `" in card and "license" not in card
    card = (adapter / "README.md").read_text()
    facts = [
        "library_name: peft",
        "A LoRA adapter of rank 4",
        "PeftModel.from_pretrained(base, path)",
        "sft merge --adapter adapter --base tiny_base",
        "LoRA of rank 4, alpha 8, dropout 0.05 on q_proj, v_proj, down_proj",
    ]
    assert [fact for fact in facts if fact not in card] == []
    assert str(full_run.parent) not in card  # no paths of this machine


def test_a_lora_run_gives_an_adapter_that_peft_loads_on_the_base(
    adapter: Path, lora_run: Path, base: Path
) -> None:
    assert sorted(path.name for path in adapter.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "generation_config.json",
        "run_record.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    finetuned = open_finetuned(str(lora_run))
    ids = probe_ids(finetuned.model)
    expected = finetuned.unmerged_logits()
    torch.testing.assert_close(peft_logits(base, adapter, ids), expected, rtol=1e-4, atol=1e-4)
    assert (logits(base, ids) - expected).abs().max() > 0.01 * expected.abs().max()
    assert AdapterFolder(adapter).base == str(base)
    # Bit for bit what was trained, and nothing but the targets.
    stored = load_file(adapter / "adapter_model.safetensors")
    assert len(stored) == 2 * 2 * 3
    for name, value in stored.items():
        name = name.removeprefix("base_model.model.").replace(".weight", ".default.weight")
        assert torch.equal(value, finetuned.checkpoint.parameter(name, value.shape))


def test_merging_the_run_and_merging_its_adapter_give_the_same_weights(
    adapter: Path, lora_run: Path, base: Path, tmp_path: Path
) -> None:
    of_run, of_folders = tmp_path / "of_run", tmp_path / "of_folders"
    arguments = ["--checkpoint", lora_run, "--output", of_run, "--dtype", "fp32"]
    assert main(["merge", *map(str, arguments)]) == 0
    arguments = ["--adapter", adapter, "--base", base, "--output", of_folders, "--dtype", "fp32"]
    assert main(["merge", *map(str, arguments)]) == 0
    one, other, before = HfFolder(of_run), HfFolder(of_folders), HfFolder(base)
    changed = set()
    for name in one.names():
        assert torch.equal(one.stored(name), other.stored(name))
        if not torch.equal(one.stored(name), before.stored(name)):
            changed.add(name.split(".")[-2])
    assert changed == {"q_proj", "v_proj", "down_proj"}
    ids = probe_ids(one.config)
    expected = peft_logits(base, adapter, ids)
    torch.testing.assert_close(logits(of_run, ids), expected, rtol=1e-4, atol=1e-4)
    for folder in (of_run, of_folders):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str) and text.endswith("USER: ? ASSISTANT:")
    assert "merged in fp32 into its base `tiny_base`" in (of_run / "README.md").read_text()


@pytest.mark.slow
def test_an_export_can_be_finetuned_on(model: Path, dataset: Path, tmp_path: Path) -> None:
    run_ranks(finetune_tiny, 1, model, dataset, tmp_path / "run", {"train.max_steps": 1})
    assert RunFolder(tmp_path / "run").checkpoint_steps() == [1]


@pytest.mark.slow
def test_a_tokenizer_with_special_tokens_ends_answers_with_its_own(tmp_path: Path) -> None:
    specials = ["<|im_start|>", "<|im_end|>"]
    base = write_tokenizer(tmp_path / "base", "byte_level", specials=specials, eos="<|endoftext|>")
    tokenizer = open_tokenizer(base)
    tiny_llama(tokenizer.vocab_size, bos_token_id=None, eos_token_id=0).save_pretrained(base)
    dataset = prepare_tiny(tmp_path / "data", base, template="chatml")
    run = tmp_path / "run"
    run_ranks(finetune_tiny, 1, base, dataset, run, {"train.max_steps": 1})
    output = export(run, tmp_path / "out")
    end = tokenizer.specials["<|im_end|>"].id
    generation = json.loads((output / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [end, tokenizer.eos_id]
    assert "bos_token_id" not in generation
    loaded = AutoTokenizer.from_pretrained(output)
    assert loaded.eos_token == "<|im_end|>"
    found = loaded.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert found == encode_prompt(read_template("chatml"), tokenizer, TURNS).tolist()
    assert end in found and "<|im_end|>` (" in (output / "README.md").read_text()


def test_the_check_finds_another_template(model: Path, full_run: Path, tmp_path: Path) -> None:
    finetuned = open_finetuned(str(full_run))
    check_chat_ids(model, finetuned.tokenizer, finetuned.template)
    changed = tmp_path / "changed"
    shutil.copytree(model, changed)
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        path = changed / name
        path.write_text(path.read_text().replace("USER: ", "User: "))
    with pytest.raises(RuntimeError, match="apply_chat_template gives"):
        check_chat_ids(changed, finetuned.tokenizer, finetuned.template)


def refused(*arguments: object) -> str:
    with pytest.raises(ConfigError) as caught:
        main([str(argument) for argument in arguments])
    return str(caught.value)


def test_an_adapter_without_a_base_to_name_is_refused(lora_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(lora_run, run)
    path = run / "checkpoints/step-4/manifest.json"
    edit_sealed(path, lambda manifest: manifest["record"]["origin"].update(init="/gone/base"))
    arguments = ["export", "--checkpoint", run, "--output", tmp_path / "out"]
    assert "base = null: is not given, and the run did not begin from a Hugging Face" in refused(
        *arguments
    )
    assert main([*map(str, arguments), "--base", "someone/their-base"]) == 0
    assert AdapterFolder(tmp_path / "out").base == "someone/their-base"
    assert "base_model: someone/their-base" in (tmp_path / "out/README.md").read_text()


def test_an_adapter_is_not_pushed_with_a_base_of_this_machine(
    lora_run: Path, base: Path, tmp_path: Path
) -> None:
    arguments = ["export", "--checkpoint", lora_run, "--output", tmp_path / "out"]
    message = refused(*arguments, "--push", "someone/adapter")
    assert f"base = {base}: is a path of this machine" in message
    assert list(tmp_path.iterdir()) == []


def test_runs_of_another_kind_are_sent_to_their_verb(
    full_run: Path, lora_run: Path, tmp_path: Path
) -> None:
    output = ["--output", tmp_path / "out"]
    message = refused("merge", "--checkpoint", full_run, *output)
    assert "there is no adapter to merge. Write it with 'mobilellama sft export'" in message
    with pytest.raises(ConfigError, match=r"was written by 'mobilellama sft run'\. Export it with"):
        pretrain_main(["export", "--checkpoint", str(lora_run), *map(str, output)])
    message = refused("export", "--checkpoint", tmp_path, *output)
    assert "is neither a checkpoint nor a run's folder" in message
    pretrained = tmp_path / "run"
    shutil.copytree(full_run, pretrained)
    path = pretrained / "checkpoints/step-4/manifest.json"
    edit_sealed(path, record={"stage": "pretrain"})
    for verb in ("export", "merge"):
        message = refused(verb, "--checkpoint", pretrained, *output)
        assert "Export it with 'mobilellama pretrain export'" in message


def test_a_flipped_byte_in_the_frozen_base_is_found(lora_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(lora_run, run)
    (path,) = (run / "frozen").iterdir()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    for verb in ("export", "merge"):
        with pytest.raises(UserError, match=r"frozen/.*: its sha256 differs from its name"):
            main([verb, "--checkpoint", str(run), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_moved_checkpoint_needs_tokenizer_and_template(
    full_run: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "step-4"
    shutil.copytree(full_run / "checkpoints/step-4", moved)
    arguments: list[Any] = ["export", "--checkpoint", moved, "--output", tmp_path / "out"]
    assert "tokenizer = null: is not given" in refused(*arguments)
    arguments += ["--tokenizer", small_tokenizer]
    assert "template = null: is not given" in refused(*arguments)
    arguments += ["--template", "vicuna_v1", "--check", "false"]
    assert main([str(argument) for argument in arguments]) == 0


@pytest.mark.slow
def test_an_adapter_is_pushed_over_a_model_and_leaves_nothing_of_it(
    full_run: Path, lora_run: Path, tmp_path: Path
) -> None:
    with HubServer(owners=("tester",)) as hub:
        environment = os.environ | hub_environment(hub.url, tmp_path)
        for run, name in ((full_run, "model"), (lora_run, "adapter")):
            arguments = ["--checkpoint", run, "--output", tmp_path / name, "--check", "false"]
            arguments += ["--push", "tester/chat", "--base", "tester/base"]
            done = subprocess.run(
                [sys.executable, "-m", "mobilellama", "sft", "export", *map(str, arguments)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            pushed = {name: f.content for name, f in hub.repositories["tester/chat"].files.items()}
            assert pushed == {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
    assert "adapter_config.json" in pushed and "config.json" not in pushed
    assert json.loads(pushed["adapter_config.json"])["base_model_name_or_path"] == "tester/base"
