"""Every door of the command line is given code in what it opens: none of it is run.

Code is Python that a folder brings (``auto_map``) or a pickle; what it would do is make a file or
folder, the canary. Each command ends with a message that is no traceback, and asks nothing.
"""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from mobilellama.__main__ import main
from mobilellama.sft.main import main as sft_main
from tests.helpers.foreign_code import Touch, write_code, write_pickle
from tests.sft.helpers.tiny_chat_model import write_tiny_chat_model
from tests.vlm.helpers.tiny_vlm import make_tower

pytestmark = pytest.mark.slow


class Place(NamedTuple):
    """What the doors are made of, in a folder of their own."""

    root: Path
    canary: Path
    tokenizer: Path
    dataset: Path

    def chat_model(self) -> Path:
        return write_tiny_chat_model(self.root / "chat_model", self.tokenizer)

    def code(self, folder: Path | None = None) -> str:
        """Return a folder that brings Python."""
        folder = folder or self.root / "code"
        write_code(folder, self.canary)
        return str(folder)

    def pickled(self, way: str = "zip") -> str:
        """Return a chat model whose weights are a pickle that would run code."""
        folder = self.chat_model()
        for path in folder.glob("*.safetensors"):
            path.unlink()
        write_pickle(folder / "pytorch_model.bin", self.canary, way=way)
        return str(folder)

    def disguised(self) -> str:
        """Return a chat model whose model.safetensors is a pickle."""
        folder = self.chat_model()
        write_pickle(folder / "model.safetensors", self.canary, way="bare")
        return str(folder)

    def tower(self, *, code: bool = False) -> str:
        folder = make_tower(self.root / "tower")
        for path in folder.glob("*.safetensors"):
            path.unlink()
        write_pickle(folder / "pytorch_model.bin", self.canary)
        return self.code(folder) if code else str(folder)

    def file(self, name: str) -> str:
        """Return a bare pickle under any name."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(write_pickle(path, self.canary, way="bare"))

    def text(self, name: str, content: str) -> str:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return str(path)

    def adapter(self) -> str:
        folder = self.root / "adapter"
        folder.mkdir()
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
        config |= {"base_model_name_or_path": "x", "auto_mapping": {"parent_library": "evil"}}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        write_pickle(folder / "adapter_model.bin", self.canary)
        return str(folder)

    def conversations(self) -> str:
        turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
        return self.text("chats.json", json.dumps([{"conversations": turns}] * 4))

    def records(self) -> str:
        turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
        return self.text("records.json", json.dumps([{"id": "0", "conversations": turns}] * 4))

    def rows(self) -> str:
        """Return a dataset of conversations."""
        output = str(self.root / "rows")
        data = ["--data.path", self.conversations(), "--tokenizer", str(self.tokenizer)]
        settings = ["--seq_len", "256", "--heldout_share", "0", "--workers", "1"]
        assert sft_main(["prepare", *data, *settings, "--output", output]) == 0
        return output

    def script(self) -> str:
        """Return a folder of a dataset that a script would make."""
        source = f"open({str(self.canary)!r}, 'w').close()\n"
        self.text("scripted/scripted.py", source)
        return str(self.root / "scripted")

    def yaml(self, name: str = "evil.yaml") -> str:
        call = f"!!python/object/apply:os.mkdir ['{self.canary}']"
        return self.text(name, f"seed: {call}\nuser: {call}\n")

    def checkpoint(self) -> str:
        """Return a run whose checkpoint is made of pickles."""
        for name in ("manifest.json", "rank-0.json", "rank-0.safetensors"):
            self.file(f"run/checkpoints/step-3/{name}")
        return str(self.root / "run")

    def pipe(self) -> str:
        template = "{{ cycler.__init__.__globals__.os.mkdir('" + str(self.canary) + "') }}"
        folder = self.chat_model()
        (folder / "chat_template.jinja").write_text(template)
        return str(folder)

    def task(self) -> list[str]:
        """Return the options of an evaluation with data of its own."""
        row = {"goal": "a", "sol1": "b", "sol2": "c", "label": 0}
        self.text("tasks/piqa/validation.jsonl", json.dumps(row) + "\n")
        return [*EVALUATE, "--data", str(self.root / "tasks")]

    def ask(self) -> str:
        return self.text("prompts.jsonl", json.dumps({"prompt": "Hi"}) + "\n")

    def training(self, stage: str, init: str) -> list[str]:
        output = ["--run.folder", str(self.root / "new_run"), "--train.max_steps", "1"]
        if stage == "sft":
            return ["sft", "run", "--config", "demo_sft", "--init", init,
                    "--data.path", self.rows(), *output]  # fmt: skip
        data = ["--data.path", self.records(), "--data.images", str(self.root)]
        return ["vlm", "run", "--init", init, *data, "--projector.kind", "ldpnetv2", *output]

    def out(self) -> list[str]:
        return ["--output", str(self.root / "out")]


Door = Callable[[Place], list[str]]
EVALUATE = ("--tasks", "piqa", "--device", "cpu")

SENTENCES = {
    ", code": "its config.json needs its own Python code (evil.Evil), which no command here runs",
    "pickle": "holds a pickle with more than tensors, which would run code (posix.mkdir); it was",
}

DOORS: dict[str, Door] = {
    "evaluate, code": lambda p: [
        "pretrain",
        "evaluate",
        "--model",
        p.code(p.chat_model()),
        *EVALUATE,
    ],
    "evaluate, pickle": lambda p: ["pretrain", "evaluate", "--model", p.pickled(), *p.task()],
    "evaluate, old pickle": lambda p: [
        "pretrain",
        "evaluate",
        "--model",
        p.pickled("old"),
        *p.task(),
    ],
    "evaluate, a task's file": lambda p: [
        "pretrain",
        "evaluate",
        "--model",
        str(p.chat_model()),
        "--tasks",
        p.text("t/evil.yaml", "task: evil\nprocess_docs: !function evil.run\n"),
        "--device",
        "cpu",
    ],
    "evaluate, task data": lambda p: [
        "pretrain",
        "evaluate",
        "--model",
        str(p.chat_model()),
        *EVALUATE,
        "--data",
        p.file("d/piqa/validation.parquet").rsplit("/piqa", 1)[0],
    ],
    "chat, code": lambda p: ["sft", "chat", "--model", p.code(p.chat_model())],
    "chat, pickle": lambda p: ["sft", "chat", "--model", p.pickled("bare")],
    "chat, disguised pickle": lambda p: ["sft", "chat", "--model", p.disguised()],
    "chat, template": lambda p: ["sft", "chat", "--model", p.pipe()],
    "chat, template file": lambda p: [
        "sft",
        "chat",
        "--model",
        str(p.chat_model()),
        "--template",
        p.yaml(),
    ],
    "generate, code": lambda p: [
        "sft",
        "generate",
        "--model",
        p.code(p.chat_model()),
        "--input",
        p.ask(),
        *p.out(),
    ],
    "generate, pickle": lambda p: [
        "sft",
        "generate",
        "--model",
        p.pickled(),
        "--input",
        p.ask(),
        *p.out(),
    ],
    "generate, prompts": lambda p: [
        "sft",
        "generate",
        "--model",
        str(p.chat_model()),
        "--input",
        p.file("prompts.pkl"),
        *p.out(),
    ],
    "finetune, code": lambda p: p.training("sft", p.code()),
    "finetune, pickle": lambda p: p.training("sft", p.pickled()),
    "finetune, disguised pickle": lambda p: p.training("sft", p.disguised()),
    "finetune, checkpoint": lambda p: p.training("sft", p.checkpoint()),
    "prepare, tokenizer": lambda p: [
        "sft",
        "prepare",
        "--data.path",
        p.conversations(),
        "--tokenizer",
        p.code(),
        *p.out(),
    ],
    "prepare, tokenizer.model": lambda p: [
        "sft",
        "prepare",
        "--data.path",
        p.conversations(),
        "--tokenizer",
        p.file("tokenizer.model"),
        *p.out(),
    ],
    "prepare, tokenizer.json": lambda p: [
        "sft",
        "prepare",
        "--data.path",
        p.conversations(),
        "--tokenizer",
        p.file("t/tokenizer.json"),
        *p.out(),
    ],
    "prepare, template": lambda p: [
        "sft",
        "prepare",
        "--data.path",
        p.conversations(),
        "--tokenizer",
        str(p.tokenizer),
        "--template",
        p.yaml(),
        *p.out(),
    ],
    "prepare, script": lambda p: [
        "sft",
        "prepare",
        "--data.path",
        p.script(),
        "--tokenizer",
        str(p.tokenizer),
        *p.out(),
    ],
    "prepare, records": lambda p: [
        "sft",
        "prepare",
        "--data.path",
        p.file("records.json"),
        "--tokenizer",
        str(p.tokenizer),
        *p.out(),
    ],
    "prepare, parquet": lambda p: [
        "sft",
        "prepare",
        "--data.path",
        p.file("records.parquet"),
        "--tokenizer",
        str(p.tokenizer),
        *p.out(),
    ],
    "prepare, config": lambda p: ["sft", "prepare", "--config", p.yaml(), *p.out()],
    "merge, adapter": lambda p: [
        "sft",
        "merge",
        "--adapter",
        p.adapter(),
        "--base",
        str(p.chat_model()),
        *p.out(),
    ],
    "merge, base": lambda p: [
        "sft",
        "merge",
        "--adapter",
        p.adapter(),
        "--base",
        p.pickled(),
        *p.out(),
    ],
    "sft export, checkpoint": lambda p: ["sft", "export", "--checkpoint", p.checkpoint(), *p.out()],
    "pretrain export, checkpoint": lambda p: [
        "pretrain",
        "export",
        "--checkpoint",
        p.checkpoint(),
        *p.out(),
    ],
    "replay, run": lambda p: ["pretrain", "replay", "--run", p.checkpoint(), "--step", "1"],
    "tokenise, tokenizer": lambda p: [
        "tokenize",
        "run",
        "--tokenizer",
        p.file("x.model"),
        "--sources.root",
        str(p.dataset),
        *p.out(),
    ],
    "tokenise, script": lambda p: [
        "tokenize",
        "run",
        "--tokenizer",
        str(p.tokenizer),
        "--sources.dataset",
        p.script(),
        *p.out(),
    ],
    "tokenise, parquet": lambda p: [
        "tokenize",
        "run",
        "--tokenizer",
        str(p.tokenizer),
        "--sources.dataset",
        str(Path(p.file("tables/a.parquet")).parent),
        *p.out(),
    ],
    "tokenise, arrow": lambda p: [
        "tokenize",
        "run",
        "--tokenizer",
        str(p.tokenizer),
        "--sources.dataset",
        str(Path(p.file("tables/a.arrow")).parent),
        *p.out(),
    ],
    "info, dataset": lambda p: [
        "shards",
        "info",
        str(Path(p.file("set/dataset.json")).parent),
    ],
    "verify, bucket": lambda p: ["shards", "verify", replaced(p, "manifest.parquet")],
    "show, tokenizer": lambda p: [
        "shards",
        "show",
        str(p.dataset),
        "--position",
        "0",
        "--tokenizer",
        p.code(),
    ],
    "see, code": lambda p: [*p.training("vlm", p.code()), "--vision", p.tower()],
    "see, pickle": lambda p: [*p.training("vlm", p.pickled()), "--vision", p.tower()],
    "see, tower": lambda p: [*p.training("vlm", str(p.chat_model())), "--vision", p.tower()],
    "see, tower's code": lambda p: [
        *p.training("vlm", str(p.chat_model())),
        "--vision",
        p.tower(code=True),
    ],
    "see, projector": lambda p: [
        *p.training("vlm", str(p.chat_model())),
        "--vision",
        str(make_tower(p.root / "whole")),
        "--projector.weights",
        p.file("mm_projector.bin"),
    ],
    "vlm import, code": lambda p: ["vlm", "import", "--model", p.code(), *p.out()],
    "vlm chat, code": lambda p: ["vlm", "chat", "--model", p.code()],
    "vlm evaluate, code": lambda p: [
        "vlm",
        "evaluate",
        "--model",
        p.code(),
        "--tasks",
        "pope",
        "--data",
        str(p.root),
        *p.out(),
    ],
    "vlm export, checkpoint": lambda p: ["vlm", "export", "--checkpoint", p.checkpoint(), *p.out()],
    "check-data, records": lambda p: [
        "vlm",
        "check-data",
        p.file("mix.json"),
        "--images",
        str(p.root),
        *p.out(),
    ],
}


def replaced(place: Place, name: str) -> str:
    """Return a copy of the dataset with one file a pickle."""
    copy = place.root / "dataset"
    shutil.copytree(place.dataset, copy)
    place.file(f"dataset/{name}")
    return str(copy)


def test_there_are_thirty_doors_and_more() -> None:
    assert len(DOORS) >= 30


def test_the_canaries_sing(tmp_path: Path) -> None:
    """What is tried here would do something if it were run."""
    for number, way in enumerate(("zip", "old")):
        canary = tmp_path / str(number)
        torch.load(write_pickle(tmp_path / "x.bin", canary, way=way), weights_only=False)
        assert canary.exists()
    pickle.loads(pickle.dumps(Touch(tmp_path / "bare")))
    assert (tmp_path / "bare").exists()


@pytest.mark.parametrize("door", DOORS)
def test_nothing_is_run_behind_a_door(
    door: str,
    small_tokenizer: Path,
    small_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    place = Place(tmp_path / "place", tmp_path / "canary", small_tokenizer, small_dataset)
    place.root.mkdir()
    if door.startswith("evaluate"):
        pytest.importorskip("lm_eval")

    def ask(*_: object) -> str:
        raise AssertionError("asked on the console")

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    argv = DOORS[door](place)
    monkeypatch.setattr(sys, "argv", ["mobilellama", *argv])
    monkeypatch.chdir(place.root)
    before = os.environ.copy()
    try:
        code = main()
    except SystemExit as error:  # the command line's own refusal
        code = error.code
    finally:
        os.environ.clear()
        os.environ.update(before)
    said = "".join(capfd.readouterr())
    assert not place.canary.exists()
    assert "Traceback" not in said
    assert code not in (0, None), said
    for ending, sentence in SENTENCES.items():
        if door.endswith(ending):
            assert sentence in said
