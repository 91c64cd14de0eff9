r"""Kill 'tokenize run' and 'tokenize finish' with SIGKILL, run them again, and compare all bytes.

A drill makes one dataset. It kills one to three times, and then lets the command come to its end:

  worker      one worker process. The command goes on, and its message names the slice.
  parent      the command alone. Its workers must end by themselves; often the next start does
              not wait for them.
  group       the command and its workers in the same instant, as when a node fails.
  finish      'tokenize finish', after the two tasks of a job array.
  one of two  two commands write into one folder at the same time, and one of them is killed.

The instant is a random one of the command's time, or a named point (kill_at.py). The seed decides
on all: victim, instants, number of workers, which may differ from start to start. After each drill
the folder holds the files of a run that was never killed, with the same sha256, and no others; no
process is left; each exit code is one of those that are documented, and nobody reads a traceback.

    python benchmarks/tokenize_recovery.py --corpus CORPUS --tokenizer tokenizer.model \
        --output benchmarks/results/tokenize_recovery.json
"""

import hashlib
import random
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import paired  # noqa: E402
from benchmarks.kill_at import (  # noqa: E402
    AT_END,
    AT_START,
    IN_WORKER,
    Point,
    environment,
    was_reached,
)
from benchmarks.killed_command import KillableCommand  # noqa: E402
from mobilellama.table import aligned  # noqa: E402

VICTIMS = ("worker", "parent", "group", "finish", "one of two")
_SLICES = ("--slice_bytes", "30000", "--heldout_share", "0.02")
_FILE_BYTES = 100_000
_POINT_SHARE = 0.6  # of the kills; the others come at any time

# Who is killed where a process comes to a point. A worker's parent is the command.
_WORKERS_VICTIM = {"worker": "itself", "parent": "parent", "group": "group", "one of two": "group"}


@dataclass(kw_only=True)
class Result:
    """What became of one drill."""

    victim: str
    workers: int
    """Of the starts that were killed. The last start has 1 to 4, at random."""
    instants: list[str] = field(default_factory=list)
    """Of the kills that hit."""
    exits: Counter[str] = field(default_factory=Counter)
    """Exit codes of the commands that were killed, or whose worker was."""
    faults: list[str] = field(default_factory=list)
    """Differences to the run without a kill, and all else that should not be."""


class Drills:
    """Makes datasets of one corpus, with kills.

    Args:
        corpus: in RedPajama's layout, small: each drill reads it a few times.
        tokenizer: a sentencepiece .model file.
        place: an empty folder.
    """

    def __init__(self, corpus: Path, tokenizer: Path, place: Path) -> None:
        self._arguments = ("--tokenizer", tokenizer, "--sources.root", corpus, *_SLICES)
        self._place = place
        whole = place / "whole"
        for _ in range(2):  # the first may compile the encoder
            shutil.rmtree(whole, ignore_errors=True)
            self._run_s = KillableCommand("run", *self._arguments, "--output", whole).seconds()
        self.expected = sha256s(whole)
        self._finish_s = KillableCommand("finish", "--output", whole).seconds()

    def drill(self, victim: str, workers: int, seed: int) -> Result:
        """Kill, run to the end, and compare. A result without instants killed nothing."""
        rng = random.Random(f"{seed} {victim} {workers}")
        output = self._place / "drill" / "dataset"
        output.parent.mkdir()
        result = Result(victim=victim, workers=workers)
        commands: list[KillableCommand] = []
        for words in self._commands(victim, output):
            can_die = victim != "finish" or words[0] == "finish"
            kills = rng.randint(1, 3) if can_die else 0
            for number in range(kills):
                commands += self._killed(result, words, number, rng)
                if commands[-1].process.returncode == 0:
                    break  # there is nothing left to do
            commands.append(KillableCommand(*_with_workers(words, rng.randint(1, 4))))
            if code := commands[-1].wait():
                result.faults.append(f"the last start: exit code {code}: {commands[-1].error()}")
        result.faults += self._judge(commands, output)
        shutil.rmtree(output.parent)
        return result

    def _commands(self, victim: str, output: Path) -> Iterator[Sequence[object]]:
        run = ("run", *self._arguments, "--output", output)
        if victim != "finish":
            yield run
            return
        for task in range(2):
            yield (*run, "--task_count", 2, "--task_index", task)
        yield ("finish", "--output", output)

    def _killed(
        self, result: Result, words: Sequence[object], number: int, rng: random.Random
    ) -> list[KillableCommand]:
        """Start the command and kill. Return all commands, the killed one last."""
        victim, hook = result.victim, self._place / "hook"
        beside = []
        if victim == "one of two":
            beside.append(KillableCommand(*_with_workers(words, rng.randint(1, 4))))
        words = _with_workers(words, result.workers)
        at_point = rng.random() < _POINT_SHARE
        if at_point:
            point, count, who = _draw_point(victim, number, rng)
            command = KillableCommand(*words, environment=environment(hook, point, count, who))
            command.wait()
            hit, instant = was_reached(hook), point.name
        else:
            at_s = rng.uniform(0, self._finish_s if words[0] == "finish" else self._run_s)
            command = KillableCommand(*words)
            who = victim if victim in ("worker", "parent") else "group"
            hit, instant = command.kill_after(at_s, who, rng), "any time"
        if hit and rng.random() < 0.5 and not command.wait_for_workers():
            result.faults.append("a worker lived on after its parent")
        code = command.wait()
        result.faults += _fault_of_exit(victim, command, code, hit=hit)
        for other in beside:
            if other_code := other.wait():
                result.faults.append(f"the other run: exit code {other_code}: {other.error()}")
        if hit:
            result.instants.append(instant)
            result.exits[str(code)] += 1
        return [*beside, command]

    def _judge(self, commands: Sequence[KillableCommand], output: Path) -> Iterator[str]:
        for command in commands:
            if not command.wait_for_workers():
                yield "a process lived on"
            if "Traceback" in command.error():
                yield command.error()
        found = sha256s(output)
        for name in sorted(found.keys() | self.expected.keys()):
            if name not in found:
                yield f"{name} is missing"
            elif name not in self.expected:
                yield f"{name} was left"
            elif found[name] != self.expected[name]:
                yield f"{name} differs"
        yield from (f"{path} was left" for path in output.parent.iterdir() if path != output)


def _with_workers(words: Sequence[object], workers: int) -> Sequence[object]:
    return words if words[0] == "finish" else (*words, "--workers", workers)


def _draw_point(victim: str, number: int, rng: random.Random) -> tuple[Point, int, str]:
    """Return a point, how often it is reached first, and who is killed there."""
    if victim == "finish":
        return rng.choice(AT_END), 1, "itself"
    places = [IN_WORKER] if victim == "worker" else [IN_WORKER, AT_START, AT_END]
    if number:  # the plan is there
        places = [place for place in places if place is not AT_START]
    place = rng.choice(places)
    if place is IN_WORKER:
        return rng.choice(place), rng.randint(1, 6), _WORKERS_VICTIM[victim]
    return rng.choice(place), 1, "itself" if victim == "parent" else "group"


def _fault_of_exit(victim: str, command: KillableCommand, code: int, *, hit: bool) -> Iterator[str]:
    """Yield what is wrong with the end of a command that was killed, or whose worker was."""
    if victim != "worker" or not hit:
        if code != (-9 if hit else 0):
            yield f"exit code {code}: {command.error()}"
    elif code not in (0, 2):  # 0: the worker had made its last bucket
        yield f"a killed worker: exit code {code}: {command.error()}"
    elif code == 2 and "its worker was killed by SIGKILL" not in command.error():
        yield f"a killed worker is not told: {command.error()}"


def sha256s(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder, by its path there."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def copy_start(corpus: Path, target: Path) -> None:
    """Copy the first lines of each file of a corpus, about 100 kB of each."""
    for path in sorted(corpus.rglob("*.jsonl*")):
        packed = path.suffix == ".zst"
        with open(path, "rb") as file:
            stream = zstandard.ZstdDecompressor().stream_reader(file) if packed else file
            start = stream.read(_FILE_BYTES)
        lines = start[: start.rfind(b"\n") + 1]
        if lines:
            copy = target / path.relative_to(corpus)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(zstandard.compress(lines) if packed else lines)


def run_drills(drills: Drills, count: int, seed: int) -> list[Result]:
    """Return the results of so many drills that killed something.

    All victims come in turn, then all numbers of workers from 1 to 4.
    """
    results: list[Result] = []
    while len(results) < count:
        turn, victim = divmod(len(results), len(VICTIMS))
        result = drills.drill(VICTIMS[victim], 1 + turn % 4, seed)
        seed += 1
        if not result.instants and not result.faults:
            continue  # the command had ended before its kill
        results.append(result)
        for fault in result.faults:
            print(f"{result.victim}, seed {seed - 1}: {fault}", flush=True)
    return results


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Return the counts by victim and workers, by instant, and by exit code."""
    rows: dict[tuple[str, int], list[Result]] = defaultdict(list)
    for result in results:
        rows[result.victim, result.workers].append(result)
    return {
        "drills": len(results),
        "identical": sum(not result.faults for result in results),
        "kills": sum(len(result.instants) for result in results),
        "table": [
            {
                "victim": victim,
                "workers": workers,
                "drills": len(mine),
                "kills": sum(len(result.instants) for result in mine),
                "identical": sum(not result.faults for result in mine),
            }
            for (victim, workers), mine in sorted(rows.items())
        ],
        "kills_by_instant": Counter(i for result in results for i in result.instants),
        "exit_codes": {
            victim: sum((r.exits for r in results if r.victim == victim), Counter[str]())
            for victim in VICTIMS
        },
    }


def main() -> int:
    """Run the drills, print the table, and return 1 if one differed."""
    options = paired.arguments(__doc__, corpus="", tokenizer="", drills=200, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        copy_start(Path(options.corpus), corpus)
        drills = Drills(corpus, Path(options.tokenizer), Path(folder))
        results = run_drills(drills, options.drills, options.seed)
    result = summary(results)
    used = {"cpu_s": round(paired.cpu_s())}
    paired.save({"what": __doc__, **paired.settings(options), **result, **used}, options)
    names = ("victim", "workers", "drills", "kills", "identical")
    print(aligned([names, *(tuple(str(row[name]) for name in names) for row in result["table"])]))
    return int(result["identical"] < result["drills"])


if __name__ == "__main__":
    raise SystemExit(main())
