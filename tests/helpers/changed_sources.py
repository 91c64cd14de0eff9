"""A small corpus, tokenised by one worker, of which a test changes a few letters."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mobilellama.config import UserError
from mobilellama.shards.dataset import Identity, Plan
from mobilellama.tokenize.main import main as tokenize_main

LINES = [f'{{"text": "line {i} of this file, which is red"}}\n' for i in range(40)]


def make_corpus(root: Path) -> Path:
    """Write three files of two subsets below a folder, and return it."""
    for name in ("c4/a.jsonl", "c4/b.jsonl", "book/c.jsonl"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(LINES))
    return root


def run(source: Path, tokenizer: Path, output: Path, *more: str, kind: str = "root") -> int:
    arguments = [f"--sources.{kind}", str(source), "--tokenizer", str(tokenizer)]
    arguments += ["--output", str(output), "--workers", "1", *more]
    return told(tokenize_main, ["run", *arguments])


def told(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a stage's main as the program does."""
    try:
        return main(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def change(path: Path, line: int, *, keep_time: bool = False) -> None:
    """Change three letters of a line in place; size and inode stay."""
    status = path.stat()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b"red", b"sad")
    with open(path, "r+b") as file:
        file.write(b"".join(lines))
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def identity_of(folder: Path) -> Identity:
    return Plan.read(folder).identity
