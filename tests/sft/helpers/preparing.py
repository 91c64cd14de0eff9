"""Conversations, and 'sft prepare' on them."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mobilellama.sft.data.records import read_turns
from mobilellama.sft.data.split import split_conversation
from mobilellama.sft.data.template import read_template
from mobilellama.sft.main import main
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.sft.helpers.conversations import make_conversations, write_lines

SEQ_LEN = 256
NAMES = ("a.json", "b.jsonl", "c.jsonl")


def prepare(tokenizer: Path, data: Path, output: Path, *more: str) -> int:
    arguments = [str(data), "--tokenizer", str(tokenizer), "--output", str(output)]
    if "--seq_len" not in more:
        arguments += ["--seq_len", str(SEQ_LEN)]
    if "--workers" not in more:
        arguments += ["--workers", "1"]
    return main(["prepare", *arguments, *more])


def hello(**changes: str) -> dict[str, Any]:
    turns = {"human": "Hi", "gpt": "Hello!"} | changes
    return {"conversations": [{"from": role, "value": text} for role, text in turns.items()]}


def expected_parts(records: Sequence[Any], model: Path) -> list[list[tuple[list[int], list[int]]]]:
    """Return the parts of each good conversation, made without any of the files."""
    template, tokenizer = read_template("vicuna_v1"), Tokenizer(model)
    found = []
    for i, record in enumerate(records):
        if i in (7, 20):
            continue
        turns = [turn for turn in read_turns(record) if turn.content != "Cut off."]
        parts = split_conversation(template, tokenizer, turns, SEQ_LEN).parts
        found.append([(p.ids.tolist(), p.supervised.astype(int).tolist()) for p in parts])
    return found


def digest(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file of a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def start(tokenizer: Path, data: Path, output: Path, workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mobilellama", "sft", "prepare", "--tokenizer", str(tokenizer)]
    command += ["--data.path", str(data), "--output", str(output), "--workers", str(workers)]
    return subprocess.Popen(
        [*command, "--seq_len", str(SEQ_LEN)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


def processes_of_group(group: int) -> list[str]:
    """Return the living processes that a command started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, itself = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        found += [path.parent.name] * (itself == str(group) and state != "Z")
    return found


def start_until_a_receipt(tokenizer: Path, folder: Path) -> subprocess.Popen[str]:
    """Prepare twelve files made under `folder` by two processes; return once a bucket is done."""
    for seed in range(12):
        write_lines(folder / f"data/{seed:02}.jsonl", make_conversations(120, seed=seed))
    process = start(tokenizer, folder / "data", folder / "out", workers=2)
    limit = time.monotonic() + 60
    while not list((folder / "out").glob("*/*.json")) and time.monotonic() < limit:
        time.sleep(0.01)
    return process
