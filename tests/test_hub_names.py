"""Every command that takes a model takes its name on the Hub, and says which commit it took."""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import peft
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mobilellama.files.hub_folder import find_model
from mobilellama.pretrain.state.manifest import read_manifest
from mobilellama.run_folder import RunFolder
from mobilellama.run_record import Origin
from mobilellama.sft.finetuned import open_finetuned
from mobilellama.shards.reader import TokenDataset
from tests.helpers.hub_place import at_hub, publish
from tests.helpers.ranks import run_ranks
from tests.helpers.sealed import edit_sealed
from tests.pretrain.conftest import Command, command
from tests.pretrain.helpers.eval_tasks import write_tasks
from tests.pretrain.helpers.hub_server import HubServer
from tests.sft.helpers.tiny_chat_model import write_tiny_chat_model
from tests.sft.helpers.tiny_sft import finetune_tiny, prepare_tiny
from tests.vlm.helpers.assistants import make_assistant, write_pictures
from tests.vlm.helpers.benchmark_files import write_gqa
from tests.vlm.helpers.llava_data import write_llava
from tests.vlm.helpers.tiny_vlm import make_language_model, make_tower, train_vlm

__all__ = ["command"]

MADE = Path(__file__).parent / "fixtures/made_by_22bff75"
CHAT, VLM = "tester/chat", "tester/vlm"
WEIGHTS = r"GET /tester/[a-z]+/resolve/.*\.safetensors"


@pytest.fixture(scope="module")
def chat_model(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat_model") / "tiny"
    return write_tiny_chat_model(folder, small_tokenizer)


@pytest.fixture(scope="module")
def assistant(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_assistant(tmp_path_factory.mktemp("assistant"), small_tokenizer)


def rows(path: Path, *texts: str, field: str = "prompt") -> Path:
    path.write_text("".join(f"{json.dumps({field: text})}\n" for text in texts))
    return path


def test_a_base_model_continues_a_text(command: Command, hub: HubServer, chat_model: Path) -> None:
    publish(hub, CHAT, chat_model)
    asked = ["--prompt", "the file", "--max_new_tokens", "5", "--device", "cpu"]
    there = command("pretrain", "generate", CHAT, *asked)
    assert there.code == 0, there.err
    assert there.out == command("pretrain", "generate", chat_model, *asked).out


def test_a_chat_model_answers_and_its_commit_is_noted(
    command: Command, hub: HubServer, chat_model: Path, tmp_path: Path
) -> None:
    name = publish(hub, CHAT, chat_model)
    questions = rows(tmp_path / "questions.jsonl", "the file", "its lines")
    output = tmp_path / "answers.jsonl"
    given = ["--input", questions, "--output", output, "--device", "cpu", "--max_new_tokens", "5"]
    done = command("sft", "generate", CHAT, *given)
    assert done.code == 0, done.err
    meta = tmp_path / "answers.jsonl.meta.json"
    assert json.loads(meta.read_text())["model"] == name
    again = command("sft", "generate", chat_model, *given)  # the same model, wherever it lies
    assert again.code == 0, again.err
    assert "has 2 of 2 answers already" in again.err


def test_a_chat_with_a_name_is_one_with_its_folder(
    command: Command, hub: HubServer, chat_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(hub, CHAT, chat_model)
    said = []
    for model in (CHAT, chat_model):
        monkeypatch.setattr(sys, "stdin", io.StringIO("the file is opened\n"))
        done = command("sft", "chat", model, "--temperature", 0, "--max_new_tokens", 5)
        assert done.code == 0, done.err
        said.append(done.out)
    assert said[0] == said[1] != "\n"


def test_a_name_that_is_not_there_and_a_path_that_is_gone_are_told_apart(
    command: Command, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    for stage, verb in (("sft", "chat"), ("vlm", "chat"), ("pretrain", "generate")):
        image = ["--image", "x.png"] if stage == "vlm" else []
        gone = command(stage, verb, "runs/gone", *image)
        assert gone.code == 2 and "model = runs/gone: " in gone.err, gone.err
        assert not hub.requests
    for stage, verb in (("sft", "chat"), ("vlm", "chat"), ("pretrain", "generate")):
        none = command(stage, verb, "tester/none")
        assert none.code == 2
        assert f"model = tester/none: is no folder here and no model at {hub.url}" in none.err


@pytest.mark.parametrize(
    ("verb", "wanted"),
    [
        (["sft", "chat", VLM], VLM),
        (["sft", "generate", VLM, "--input", "{file}", "--output", "out"], VLM),
        (["pretrain", "generate", VLM], VLM),
        (["pretrain", "evaluate", VLM, "--tasks", "piqa"], VLM),
        (["vlm", "chat", CHAT], CHAT),
        (["vlm", "generate", CHAT, "--input", "{file}", "--output", "out"], CHAT),
        (["vlm", "evaluate", CHAT, "--tasks", "gqa", "--data", ".", "--output", "out"], CHAT),
        (["vlm", "import", VLM, "--dry-run"], VLM),
        (["sft", "merge", "--adapter", CHAT, "--base", CHAT, "--output", "out"], CHAT),
        (["sft", "merge", "--adapter", CHAT, "--base", VLM, "--output", "out"], VLM),
    ],
)
def test_a_model_of_another_kind_is_refused_by_its_name(
    verb: list[str],
    wanted: str,
    command: Command,
    hub: HubServer,
    chat_model: Path,
    assistant: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {CHAT: publish(hub, CHAT, chat_model), VLM: publish(hub, VLM, assistant)}
    file = rows(tmp_path / "questions.jsonl", "What is it?")
    done = command(*[word.replace("{file}", str(file)) for word in verb])
    assert done.code == 2, done.err
    error = done.err.splitlines()[-1]
    assert names[wanted] in error and str(tmp_path / "cache") not in error, error


@pytest.mark.parametrize(
    "verb",
    [["pretrain", "generate"], ["sft", "chat"], ["vlm", "chat"], ["vlm", "import", "--dry-run"]],
)
def test_wrong_weights_are_told_by_the_models_name_and_then_by_the_path(
    verb: list[str],
    command: Command,
    hub: HubServer,
    chat_model: Path,
    assistant: Path,
    tmp_path: Path,
) -> None:
    whole = {"vlm chat": assistant, "vlm import": assistant.parent / "published"}
    folder = shutil.copytree(whole.get(" ".join(verb[:2]), chat_model), tmp_path / "torn")
    file = next(folder.glob("*.safetensors"), folder / "pytorch_model.bin")
    if file.suffix == ".bin":
        weights = torch.load(file)
        torch.save({name: weights[name] for name in [*weights][:-1]}, file)
    else:
        weights = load_file(file)
        save_file({name: weights[name] for name in [*weights][:-1]}, file, {"format": "pt"})
    name = publish(hub, "tester/torn", folder)
    done = command(*verb[:2], "tester/torn", *verb[2:])
    assert done.code == 2, done.err
    error = done.err.splitlines()[-1].partition("error: ")[2]
    cache = tmp_path / "cache/models--tester--torn"
    assert error.startswith(f"{name}: "), error
    assert error.endswith(
        f"Its files are in {cache}/snapshots/{name.partition('@')[2]}. To download them again, "
        f"remove {cache}"
    )
    assert str(cache) not in done.out


def test_text_is_tokenised_with_a_folders_tokenizer_or_a_names_without_its_weights(
    command: Command, hub: HubServer, chat_model: Path, small_corpus: Path, tmp_path: Path
) -> None:
    name = publish(hub, CHAT, chat_model)
    prints = set()
    given = ["--sources.root", small_corpus, "--workers", 1, "--output"]
    for i, tokenizer in enumerate((CHAT, name, chat_model, chat_model / "tokenizer.model")):
        done = command("tokenize", "run", "--tokenizer", tokenizer, *given, tmp_path / str(i))
        assert done.code == 0, done.err
        prints.add(TokenDataset(tmp_path / str(i)).fingerprint)
    assert len(prints) == 1
    assert hub.sent("GET /tester/chat/resolve/") and not hub.sent(WEIGHTS)
    done = command("tokenize", "run", "--tokenizer", "tester/none", *given, tmp_path / "none")
    assert done.code == 2 and "tokenizer = tester/none: is no folder here and no" in done.err


def test_rows_are_prepared_with_a_models_tokenizer_without_its_weights(
    hub: HubServer, chat_model: Path, tmp_path: Path
) -> None:
    name = publish(hub, CHAT, chat_model)
    made = []
    for place, tokenizer in (("hub", name), ("folder", str(chat_model))):
        (tmp_path / place).mkdir()
        made.append(prepare_tiny(tmp_path / place, Path(tokenizer)))
    assert TokenDataset(made[0]).fingerprint == TokenDataset(made[1]).fingerprint
    assert hub.sent("GET /tester/chat/resolve/") and not hub.sent(WEIGHTS)


def test_a_vision_language_model_answers_and_is_scored_under_its_name(
    command: Command, hub: HubServer, assistant: Path, tmp_path: Path
) -> None:
    name = publish(hub, VLM, assistant)
    write_pictures(tmp_path / "images", 1)
    questions = rows(tmp_path / "questions.jsonl", "What is it?", field="text")
    output = tmp_path / "answers.jsonl"
    few = ["--device", "cpu", "--max_new_tokens", 5]
    done = command("vlm", "generate", VLM, "--input", questions, "--output", output, *few)
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "answers.jsonl.meta.json").read_text())["model"] == name
    write_gqa(tmp_path / "data")
    scored = ["--tasks", "gqa", "--data", tmp_path / "data", "--output", tmp_path / "scores"]
    done = command("vlm", "evaluate", VLM, *scored, *few)
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "scores/scores.json").read_text())["model"]["path"] == name
    first = json.loads((tmp_path / "scores/gqa.jsonl").read_text().splitlines()[0])
    assert first["model_id"] == "vlm"
    assert command("vlm", "evaluate", assistant, *scored, *few).code == 0


def test_a_chat_about_images_takes_a_name(
    command: Command,
    hub: HubServer,
    assistant: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(hub, VLM, assistant)
    (image,) = write_pictures(tmp_path / "images", 1)
    said = []
    for model in (VLM, assistant):
        monkeypatch.setattr(sys, "stdin", io.StringIO("What is it?\n"))
        asked = ["--image", tmp_path / "images" / image, "--max_new_tokens", 5]
        done = command("vlm", "chat", model, *asked, "--device", "cpu")
        assert done.code == 0, done.err
        said.append(done.out)
    assert said[0] == said[1] != "\n"


def test_a_published_model_is_imported_by_its_name_which_its_card_tells(
    command: Command, hub: HubServer, assistant: Path, tmp_path: Path
) -> None:
    name = publish(hub, VLM, assistant.parent / "published")
    done = command("vlm", "import", VLM, "--output", tmp_path / "ours")
    assert done.code == 0, done.err
    assert f"`{name}`" in (tmp_path / "ours/README.md").read_text()


def test_an_adapter_of_a_base_of_the_hub_is_checked_with_its_commit_and_names_it(
    command: Command, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = publish(hub, "tester/base", MADE / "model")
    run = shutil.copytree(MADE / "chat_run", tmp_path / "run")
    record = asdict(open_finetuned(str(run)).checkpoint.manifest.record)
    edit_sealed(
        run / "checkpoints/step-2/manifest.json",
        record=record | {"origin": asdict(Origin(init=name))},
    )
    given = ["sft", "export", run, "--check", "true", "--output"]
    done = command(*given, tmp_path / "adapter")
    assert done.code == 0, done.err
    assert "checked: transformers gives our ids, and peft logits within" in done.err
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    commit = name.partition("@")[2]
    assert config["base_model_name_or_path"] == "tester/base" and config["revision"] == commit
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    done = command(*given, tmp_path / "again")
    assert done.code == 0 and "the adapter is not tested with its base: base = tester/" in done.err
    assert (tmp_path / "again/adapter_config.json").is_file()


@pytest.mark.slow
def test_an_adapter_of_the_hub_is_merged_into_a_base_of_it_and_the_card_names_both(
    command: Command, hub: HubServer, chat_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    base = AutoModelForCausalLM.from_pretrained(chat_model)
    peft.get_peft_model(base, config).save_pretrained(str(folder))
    names = [publish(hub, "tester/adapter", folder), publish(hub, CHAT, chat_model)]
    given = ["--adapter", "tester/adapter", "--base", CHAT, "--output", tmp_path / "merged"]
    done = command("sft", "merge", *given)
    assert done.code == 0, done.err
    card = (tmp_path / "merged/README.md").read_text()
    assert all(f"`{name}`" in card for name in names)


@pytest.mark.slow
def test_a_model_is_scored_under_its_name_and_with_local_data_from_the_cache_alone(
    hub: HubServer, chat_model: Path, tmp_path: Path
) -> None:
    name = publish(hub, CHAT, chat_model)
    data, output = write_tasks(tmp_path / "data"), tmp_path / "results.json"
    given = ["--tasks", "piqa", "--limit", 2, "--data", data, "--device", "cpu"]

    def score() -> subprocess.CompletedProcess[str]:
        command = ["pretrain", "evaluate", CHAT, *map(str, given), "--output", str(output)]
        return subprocess.run(
            [sys.executable, "-m", "mobilellama", *command],
            env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=120,
        )

    refused = score()
    assert refused.returncode == 2
    assert "was not downloaded before, and with --data nothing is" in refused.stderr
    assert not hub.requests
    assert find_model(CHAT, field="model").name == name  # downloads
    done = score()
    assert done.returncode == 0, done.stderr
    assert json.loads(output.read_text())["model"] == {"path": name, "fingerprint": name}


@pytest.mark.slow
def test_two_ranks_finetune_a_name_after_one_download_and_go_on_without_the_hub(
    hub: HubServer, chat_model: Path, tmp_path: Path
) -> None:
    name = publish(hub, CHAT, chat_model)
    dataset, run = prepare_tiny(tmp_path, chat_model), tmp_path / "run"
    place = (hub.url, tmp_path / "ranks", finetune_tiny)
    arguments = (Path(CHAT), dataset, run)
    run_ranks(at_hub, 2, *place, *arguments, {"train.max_steps": 1})
    assert len(hub.sent(WEIGHTS)) == 1
    assert len(hub.sent("GET /api/models/tester/chat$")) == 1
    # Start again from nothing but the first attempt's file: the branch has moved since then.
    first = (RunFolder(run).checkpoint(1) / "rank-0.safetensors").read_bytes()
    shutil.rmtree(RunFolder(run).checkpoint(1))
    other = write_tiny_chat_model(tmp_path / "other", chat_model / "tokenizer.model")
    (other / "later").touch()
    assert publish(hub, CHAT, other) != name
    run_ranks(at_hub, 2, *place, *arguments, {"train.max_steps": 1})
    assert (RunFolder(run).checkpoint(1) / "rank-0.safetensors").read_bytes() == first
    asked = len(hub.requests)
    run_ranks(at_hub, 2, *place, *arguments, {"train.max_steps": 2})
    assert len(hub.requests) == asked
    assert read_manifest(RunFolder(run).checkpoint(2)).record.origin == Origin(init=name)


def test_a_second_tower_is_refused_before_it_is_downloaded(
    command: Command, hub: HubServer, assistant: Path, tmp_path: Path
) -> None:
    publish(hub, "tester/tower", make_tower(tmp_path / "tower"))
    given = ["--init", assistant, "--vision", "tester/tower", "--run.folder", tmp_path / "run"]
    data = ["--data.path", "x.json", "--data.images", ".", "--data.template", "vicuna_v1"]
    done = command("vlm", "run", *given, *data, "--distributed.accelerator", "cpu")
    assert done.code == 2
    assert f"vision = tester/tower: is given, but {assistant} has a tower of its own" in done.err
    assert not hub.requests


@pytest.mark.slow
def test_two_ranks_train_on_a_tower_and_a_language_model_of_the_hub(
    hub: HubServer, small_tokenizer: Path, tmp_path: Path
) -> None:
    tower = publish(hub, "tester/tower", make_tower(tmp_path / "tower"))
    model = make_language_model(tmp_path / "language", small_tokenizer)
    language = publish(hub, "tester/language", model)
    records, images = write_llava(tmp_path / "data")
    run = tmp_path / "run"
    place = (hub.url, tmp_path / "ranks", train_vlm)
    fields = {"vision": "tester/tower", "train.max_steps": 1}
    run_ranks(at_hub, 2, *place, Path("tester/language"), records, images, run, fields)
    assert len(hub.sent(WEIGHTS)) == 2  # one of each
    assert len(hub.sent("GET /api/models/tester/(tower|language)$")) == 2
    record = read_manifest(RunFolder(run).checkpoint(1)).record
    assert record.origin == Origin(init=language, vision=tower)
    asked = len(hub.requests)
    fields["train.max_steps"] = 2
    run_ranks(at_hub, 2, *place, Path("tester/language"), records, images, run, fields)
    assert len(hub.requests) == asked
