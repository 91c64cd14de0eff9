"""Paired measurement: the candidates in turn, A B, B A, A B, ...: a drifting machine cancels.

Each round runs every candidate once and gives one ratio to the first; what is reported is the
median ratio over the rounds, with its range. Odd rounds run in the opposite order, so that
what one candidate leaves behind (caches, frequency) falls upon each alike. Times are CPU
seconds of this process (and of its finished children), which other load on the machine
disturbs least.

Every benchmark prints its result. It writes a file only where it is told to:

    python benchmarks/image_decoding.py --output benchmarks/results/image_decoding.json
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def cpu_s() -> float:
    """Return the CPU seconds used so far by this process and its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(times.ru_utime + times.ru_stime for times in used)


def measure(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1
) -> dict[str, dict[str, float]]:
    """Time the candidates in turn and relate each to the first.

    Args:
        candidates: name -> function that does the same amount of work as the others.
        rounds: counted rounds.
        warmup: rounds run first and not counted.

    Returns:
        For each name: ``median_cpu_s``, and ``ratio``, ``ratio_min``, ``ratio_max`` of its CPU
        time to the first candidate's in the same round.
    """
    return relate(seconds_of(candidates, rounds=rounds, warmup=warmup))


def seconds_of(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Return the CPU seconds of each candidate in each counted round; see ``measure``."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(warmup + rounds):
        order = list(candidates)
        for name in order[::-1] if i % 2 else order:
            before = cpu_s()
            candidates[name]()
            if i >= warmup:
                seconds[name].append(cpu_s() - before)
    return seconds


def relate(seconds: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return the summary of `measure` for seconds measured elsewhere, round by round."""
    first = next(iter(seconds.values()))
    summary = {}
    for name, mine in seconds.items():
        ratios = [a / b for a, b in zip(mine, first, strict=True)]
        summary[name] = {
            "median_cpu_s": round(statistics.median(mine), 4),
            "ratio": round(statistics.median(ratios), 4),
            "ratio_min": round(min(ratios), 4),
            "ratio_max": round(max(ratios), 4),
        }
    return summary


def environment() -> dict[str, Any]:
    """Return commit, hardware and versions, without which a figure means nothing."""
    from importlib.metadata import version

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    packages = (
        "torch",
        "deepspeed",
        "lightning-fabric",
        "sentencepiece",
        "tokenizers",
        "numpy",
        "numba",
    )
    return {
        "commit": commit or "unknown",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def save(result: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Print a result with the environment and the command; write it where ``--output`` says."""
    command = "python " + " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    value = {"command": command, "environment": environment(), **result}
    text = json.dumps(value, indent=2) + "\n"
    print(text, end="")
    if options.output:
        Path(options.output).write_text(text)


def arguments(about: str | None, **options: Any) -> argparse.Namespace:
    """Parse ``--name VALUE`` options with these defaults, and ``--output FILE``."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for name, default in options.items():
        parser.add_argument(f"--{name}", default=default, type=type(default))
    parser.add_argument("--output", default="", help="write the result to this file too")
    given = parser.parse_args()
    if not Path(given.output).parent.is_dir():  # not only after minutes of measuring
        parser.error(f"--output {given.output}: its folder does not exist. Create it")
    return given


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that say what was measured: all but ``--output``."""
    return {name: value for name, value in vars(options).items() if name != "output"}
