"""The commands of README and docs are run, word for word and in a folder of their own.

Each has a class: by its first words, it runs here, or a reason keeps it from that.

    runs        in the folder, after what stands above it, on small files of the names in the text
    prints      with --dry-run: a launch on a cluster, whose script is made
    parses      with --print_config, by tests/test_readme.py: it needs GPUs, hours, a network, or
                what others publish
    elsewhere   it is no command of ours, or has a test of its own, which is named
"""

import contextlib
import importlib
import io
import json
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mobilellama.config import UserError
from mobilellama.tokenize.main import main as tokenize_main
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.tiny import train_tiny
from tests.sft.helpers.tiny_sft import finetune_tiny

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}
MADE = Path(__file__).parent / "fixtures/made_by_22bff75"

RUNS = (
    "mobilellama tokenize run",
    "mobilellama shards verify",
    "mobilellama shards info",
    "mobilellama shards show",
    "mobilellama shards plot",
    "mobilellama shards report",
    "mobilellama pretrain plan",
    "mobilellama pretrain plot",
    "mobilellama pretrain replay",
    "mobilellama pretrain export",
    "mobilellama pretrain generate",
    "mobilellama sft plan",
    "mobilellama sft prepare",
    "mobilellama sft export",
    "mobilellama sft merge",
    "mobilellama sft generate",
    "mobilellama sft chat",
    "mobilellama vlm check-data",
    "mobilellama vlm export",
    "mobilellama vlm chat",
    "mobilellama vlm generate",
    "mobilellama launch status",
)
PRINTS = (
    "mobilellama launch tokenize",
    "mobilellama launch pretrain",
    "mobilellama launch export",
)
PARSES = {
    "torchrun": "GPUs and days",
    "mobilellama pretrain run": "minutes, on a user's own sink",
    "mobilellama vlm run": "GPUs and hours",
    "mobilellama pretrain push": "the Hub",
    "mobilellama pretrain evaluate": "the tasks' files",
    "mobilellama vlm evaluate": "the benchmarks' files",
    "mobilellama vlm import": "a published folder",
    "mobilellama vlm export runs/see2 --output MobileVLM_V2-1.7B --format": "the published size",
    "mobilellama vlm export runs/see2 --output published --format": "the published size",
}
ELSEWHERE = {
    "mobilellama tokenize plan": "tests/tokenize/test_forecast.py",
    "mobilellama vlm plan": "tests/vlm/test_plan.py",
    "mobilellama shards compare": "tests/shards/compare/test_compare.py",
    "mobilellama shards show data --file": "tests/shards/test_show.py",
    "mobilellama launch doctor": "tests/launch/on_slurm/test_documented_commands.py",
    "mobilellama launch status runs/1_4b": "tests/launch/on_slurm/test_documented_commands.py",
    "mobilellama launch logs": "tests/launch/on_slurm/test_documented_commands.py",
    "mobilellama launch cancel": "tests/launch/on_slurm/test_documented_commands.py",
    "mobilellama launch pipeline": "tests/test_readme.py",
    "git clone": "needs the repository's address",
    "make": "tests/test_readme.py looks for the targets",
    "source": "the shell's",
    "tensorboard": "TensorBoard's own",
    "pip": "installs",
    "python3.11 -m venv": "installs",
}


def commands_of(page: str) -> list[str]:
    """Return the commands of a page's shell blocks, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGES[page], flags=re.DOTALL)
    lines = [
        re.split(r"\s{2,}#", line)[0].strip() for block in blocks for line in block.splitlines()
    ]
    return [line for line in lines if line and not line.startswith("#")]


def class_of(command: str) -> str | None:
    """Return how a command is tested; None if nobody has said it yet."""
    classes: Mapping[str, Mapping[str, str] | tuple[str, ...]] = {
        "runs": RUNS, "prints": PRINTS, "parses": PARSES, "elsewhere": ELSEWHERE,
    }  # fmt: skip
    found = {
        len(start): name
        for name, starts in classes.items()
        for start in starts
        if f"{command} ".startswith(f"{start} ")
    }
    return found[max(found)] if found else None  # the longest beginning counts


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_has_its_class(page: str) -> None:
    """tests/test_readme.py looks at the fields of each."""
    unknown = [command for command in commands_of(page) if class_of(command) is None]
    assert not unknown, f"{page}: put these into a class above: {unknown}"


def test_the_tests_that_are_named_are_there() -> None:
    for place in {text.split()[0] for text in ELSEWHERE.values() if text.startswith("tests/")}:
        assert (ROOT / place).is_file(), place


# ---- small files of the names in the text ------------------------------------------------------

SUBSETS = ("arxiv", "book", "c4", "common_crawl", "github", "stackexchange", "wikipedia")
SIZE: dict[str, Any] = {
    "model.vocab_size": 400, "model.max_seq_len": 2048, "train.max_steps": 2,
    "train.seq_len": 2048, "train.global_batch_size": 2, "train.micro_batch_size": 1,
    "validation.every_steps": None,
}  # fmt: skip
TOKENIZER = MADE / "dataset/tokenizer.model"


def write_corpus(folder: Path) -> None:
    """Write text in RedPajama's layout."""
    lines = [
        line for path in sorted((MADE / "corpus").rglob("*.jsonl"))
        for line in path.read_text().splitlines(keepends=True)
    ]  # fmt: skip
    for subset in SUBSETS:
        (folder / subset).mkdir(parents=True)
        (folder / subset / "a.jsonl").write_text("".join(lines))


def write_table(folder: Path) -> None:
    folder.mkdir()
    texts = [f"The story of number {i}. " * 50 for i in range(50)]
    pq.write_table(pa.table({"text": texts}), folder / "a.parquet")


def write_lines(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def write_captions(path: Path) -> None:
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A picture."}]
    path.write_text(json.dumps([{"id": "0", "image": "0.png", "conversations": turns}]))


def tokenise(folder: Path) -> None:
    write_corpus(folder.parent / "text of data")
    words = ["run", "--tokenizer", str(TOKENIZER), "--sources.root", "text of data"]
    assert tokenize_main([*words, "--output", folder.name]) == 0


def pretrain(folder: Path) -> None:
    provide("data")
    run_ranks(train_tiny, 1, Path("data"), folder, SIZE)


def finetune(folder: Path) -> None:
    provide("MobileLLaMA-1.4B")
    provide("chats")
    fields = {"train.global_batch_size": 1, "train.micro_batch_size": 1, "train.max_steps": 1}
    fields |= {"lora.rank": 2} if folder.name.endswith("lora") else {}
    run_ranks(finetune_tiny, 1, Path("MobileLLaMA-1.4B"), Path("chats"), folder, fields)


def run(command: str) -> None:
    """Run a command of ours in this process, and in the current folder."""
    stage, *arguments = shlex.split(command)[1:]
    assert importlib.import_module(f"mobilellama.{stage}.main").main(arguments) == 0, command


def copied(name: str) -> Callable[[Path], object]:
    """Return what puts a file or folder of the fixture in a place."""
    source = MADE / name
    return lambda to: (shutil.copytree if source.is_dir() else shutil.copyfile)(source, to)


def made_by(command: str) -> Callable[[Path], None]:
    """Return what makes a folder by another command of the pages."""

    def make(folder: Path) -> None:
        for name in read_by(command):
            provide(name)
        run(command)

    return make


STAND_INS: dict[str, Callable[[Path], object]] = {
    "tokenizer.model": lambda path: shutil.copyfile(TOKENIZER, path),
    "RedPajama-Data-1T": write_corpus,
    "my_parquet_folder": write_table,
    "data": tokenise,
    "runs/1_4b": pretrain,
    "runs/demo/run": pretrain,
    "runs/1_4b_chat": finetune,
    "runs/demo/chat_model": made_by(
        "mobilellama sft export runs/1_4b_chat --output runs/demo/chat_model"
    ),
    "runs/demo/picture_model": copied("see_model"),
    "runs/demo/pictures/images/0000_0.png": copied("images/0.png"),
    "runs/1_4b_lora": finetune,
    "runs/see2": copied("see_run"),
    "MobileLLaMA-1.4B": made_by("mobilellama pretrain export runs/1_4b --output MobileLLaMA-1.4B"),
    "MobileLLaMA-1.4B-Chat": made_by(
        "mobilellama sft export runs/1_4b_chat --output MobileLLaMA-1.4B-Chat"
    ),
    "ShareGPT_V4.3_unfiltered_cleaned_split.json": copied("chats.json"),
    "chats": made_by(
        "mobilellama sft prepare ShareGPT_V4.3_unfiltered_cleaned_split.json "
        "--tokenizer MobileLLaMA-1.4B --output chats"
    ),
    "prompts.jsonl": lambda path: write_lines(path, [{"prompt": "What is it?"}]),
    "mix.json": copied("records.json"),
    "captions.json": write_captions,
    "images": copied("images"),
    "photo.jpg": copied("images/0.png"),
    "questions.jsonl": lambda path: write_lines(path, [{"text": "What?", "image": "0.png"}]),
    "MobileVLM_V2-1.7B": copied("see_model"),
}


def provide(name: str) -> None:
    """Make a file or folder of the text in the current folder, unless it is there."""
    path = Path(name)
    if name in STAND_INS and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        STAND_INS[name](path)


def read_by(command: str) -> list[str]:
    """Return what a command names and does not make."""
    words = shlex.split(command)
    pairs = zip(["", *words], words, strict=False)
    return [word for before, word in pairs if before not in ("--output", "--run.folder")]


def bring(name: str, workshop: Path) -> None:
    """Copy a file or folder of the text into the current folder, unless it is there."""
    if name not in STAND_INS or Path(name).exists():
        return
    with contextlib.chdir(workshop):
        provide(name)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if (workshop / name).is_dir() else shutil.copyfile)(workshop / name, name)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the small files are made, once for all pages."""
    return tmp_path_factory.mktemp("workshop")


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)])
def test_the_commands_of_a_page_run_in_a_folder_of_their_own(
    page: str,
    workshop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for command in commands_of(page):
        kind = class_of(command)
        for name in read_by(command) if kind != "elsewhere" else ():
            bring(name, workshop)
        if kind not in ("runs", "prints"):
            continue
        monkeypatch.setattr("sys.stdin", io.StringIO("What is it?\n"))
        capsys.readouterr()
        try:
            run(command if kind == "runs" else f"{command} --dry-run")
        except UserError as error:
            pytest.fail(f"{page}: {command}: {error}")
        said = capsys.readouterr().out
        assert "Traceback" not in said
        if kind == "prints":
            assert said.startswith("#!/bin/bash\n") or "--local" in command, command
