"""How much CPU time the command line takes before a verb begins: help, and the check of 'launch'.

    python benchmarks/command_line.py

Each command is run three times in a process of its own; the fastest counts, user and system time.
"""

import importlib
import os
import resource
import subprocess
import sys

from mobilellama.__main__ import STAGES
from mobilellama.table import aligned

RUNS = 3
GIVEN = ["--config", "demo", "--data.path", "data", "--run.folder", "run"]


def main() -> None:
    """Print a line for each command."""
    rows = [("command", "CPU s")]
    for words in commands():
        rows.append((" ".join(words), f"{min(cpu_seconds(words) for _ in range(RUNS)):.2f}"))
    print(aligned(rows))


def commands() -> list[list[str]]:
    """Return the help of every verb, and what 'launch pretrain' runs to read its arguments."""
    helps = [
        [stage, verb, "--help"]
        for stage in STAGES
        for verb in importlib.import_module(f"mobilellama.{stage}.main").VERBS
    ]
    return [["--help"], *helps, ["pretrain", "run", *GIVEN, "--print_config"]]


def cpu_seconds(words: list[str]) -> float:
    """Run a command and return the CPU time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "mobilellama", *words],
        stdout=subprocess.DEVNULL, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()
