"""Kill a process of 'tokenize run' or 'finish' at a named point, with SIGKILL.

Python imports ``sitecustomize`` when it starts. A copy of this file under that name, in a folder of
PYTHONPATH, adds an audit hook to the command and to its workers. Python tells the hook of each file
that is opened, renamed, linked or removed, before it happens. So the code under test is as it is
released, and the kill comes at the same place each time.
"""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_VARIABLE = "KILL_AT"


@dataclass(frozen=True, kw_only=True)
class Point:
    """An instant: just before a process does this to a file of this name."""

    name: str
    """In words."""
    event: str
    """Of sys.addaudithook."""
    file: str
    """Regular expression of the file's name; the new name, if it is renamed."""


_PID = r"\.tmp\..+"

IN_WORKER = (
    Point(name="after the spooling", event="open", file=r"\d{5}\.bin" + _PID),
    Point(name="between ids and index", event="open", file=r"\d{5}\.idx" + _PID),
    Point(name="before the first rename", event="os.rename", file=r"\d{5}\.bin"),
    Point(name="between the renames", event="os.rename", file=r"\d{5}\.idx"),
    Point(name="between rename and receipt", event="open", file=r"\d{5}\.json" + _PID),
    Point(name="before the receipt's rename", event="os.rename", file=r"\d{5}\.json"),
    Point(name="between receipt and news", event="os.remove", file=r"\d{5}\.bin" + _PID),
)
"""Each happens once a bucket."""

AT_START = (
    Point(name="before plan.json's bytes", event="open", file=r"plan\.json" + _PID),
    Point(name="within plan.json's writing", event="os.rename", file=r"plan\.json" + _PID),
    Point(name="before plan.json's name", event="os.link", file=r"plan\.json"),
    Point(name="after plan.json's name", event="os.remove", file=r"plan\.json" + _PID),
    Point(name="before the tokenizer's name", event="os.rename", file=r"tokenizer\.model"),
)
"""Each happens once a folder, in the command's own process."""

AT_END = (
    Point(name="before the manifest's bytes", event="open", file=r"manifest\.parquet" + _PID),
    Point(name="before the manifest's name", event="os.rename", file=r"manifest\.parquet"),
    Point(name="before dataset.json's bytes", event="open", file=r"dataset\.json" + _PID),
    Point(name="before dataset.json's name", event="os.rename", file=r"dataset\.json"),
)
"""The same, when the dataset is finished."""


def environment(folder: Path, point: Point, count: int, victim: str) -> dict[str, str]:
    """Return the environment of a command that is killed once, when it reaches the point.

    Args:
        folder: for the hook, empty or used before.
        point: the instant.
        count: how often a process must reach it first, 1 at least.
        victim: ``itself``, ``parent`` or ``group``.
    """
    folder.mkdir(exist_ok=True)
    shutil.copy(__file__, folder / "sitecustomize.py")
    (folder / "done").unlink(missing_ok=True)
    asked = {"event": point.event, "file": point.file, "count": count, "victim": victim}
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, _VARIABLE: json.dumps(asked)}


def was_reached(folder: Path) -> bool:
    """Return whether the kill of ``environment`` happened."""
    return (folder / "done").exists()


def _install(asked: Mapping[str, object]) -> None:
    event, file, victim = (str(asked[key]) for key in ("event", "file", "victim"))
    left = int(str(asked["count"]))
    matches = re.compile(file).fullmatch
    of_new_name = event in ("os.rename", "os.link")
    done = Path(__file__).with_name("done")

    def hook(name: str, values: tuple[object, ...]) -> None:
        nonlocal left
        if name != event or left <= 0:
            return
        path = values[1] if of_new_name else values[0]
        if not isinstance(path, str | os.PathLike) or not matches(Path(path).name):
            return
        left -= 1
        if left == 0:
            _kill_once(done, victim)

    sys.addaudithook(hook)


def _kill_once(done: Path, victim: str) -> None:
    try:
        os.close(os.open(done, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return  # a process that came to the point before this one
    if victim == "group":
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getppid() if victim == "parent" else os.getpid(), signal.SIGKILL)


if __name__ == "sitecustomize" and _VARIABLE in os.environ:
    _install(json.loads(os.environ[_VARIABLE]))
