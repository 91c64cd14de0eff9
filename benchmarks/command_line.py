"""How much CPU time the command line takes before the work begins.

    python benchmarks/command_line.py --tokenizer tokenizer.model

- ``commands``: the help of every verb, and the check of 'launch pretrain'.
- ``tokenize run``: the whole command on a line of text for each worker, with the kernel compiled
  before. It is what a run takes beside its texts.

Of the 1.2 s with one worker the parent takes about 0.45 (imports, arguments, the manifest) and the
worker the rest (numba 0.35, other imports 0.2, the model's tables 0.1). Each worker more takes 1.0.

Each command is run three times, its workers included; the fastest counts, user and system time.
Without ``--tokenizer`` one is trained on Python's own library.
"""

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import paired
from own_library import library_corpus, trained_tokenizer

from mobilellama.__main__ import STAGES

RUNS = 3
GIVEN = ["--config", "demo", "--data.path", "data", "--run.folder", "run"]
WORKERS = (1, 2, 4)


def main() -> None:
    options = paired.arguments(__doc__, tokenizer="")
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        model = options.tokenizer or trained_tokenizer(library_corpus(scratch / "own"), scratch)
        starts = {str(count): tokenize_seconds(scratch, model, count) for count in WORKERS}
    fastest = {
        " ".join(words): min(cpu_seconds(words) for _ in range(RUNS)) for words in commands()
    }
    result = {
        "tokenize_run_cpu_s_by_workers": starts,
        "commands_cpu_s": fastest,
    }
    paired.save(result, options)


def tokenize_seconds(scratch: Path, tokenizer: str, workers: int) -> float:
    """Return the CPU time of 'tokenize run' on so many files of one line each."""
    corpus = scratch / f"corpus-{workers}" / "c4"
    corpus.mkdir(parents=True)
    for i in range(workers):
        (corpus / f"{i}.jsonl").write_text('{"text": "one line"}\n')
    given = ["--tokenizer", tokenizer, "--sources.root", str(corpus.parent)]
    given += ["--workers", str(workers)]
    # The first run may compile the kernel.
    return min(
        cpu_seconds(["tokenize", "run", *given, "--output", str(scratch / f"{workers}-{i}")])
        for i in range(RUNS + 1)
    )


def commands() -> list[list[str]]:
    """Return the help of every verb, and what 'launch pretrain' runs to read its arguments."""
    helps = [
        [stage, verb, "--help"]
        for stage in STAGES
        for verb in importlib.import_module(f"mobilellama.{stage}.main").VERBS
    ]
    return [["--help"], *helps, ["pretrain", "run", *GIVEN, "--print_config"]]


def cpu_seconds(words: list[str]) -> float:
    """Run a command and return the CPU time that it and its workers took."""
    # Without it each command would compile our modules anew, which no installation does.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = paired.cpu_s()
    subprocess.run(
        [sys.executable, "-m", "mobilellama", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return round(paired.cpu_s() - before, 2)


if __name__ == "__main__":
    main()
