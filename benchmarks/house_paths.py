"""How far a value travels from its flag to its use, and how many files a common change touches.

Hops and renames are counted on paths that are written here by hand. Each waypoint names a file and
a text of it, so a path that the code has left is an error and not an old figure.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path


class StalePathError(Exception):
    """A path or a row that the code or the page no longer has."""


@dataclass(frozen=True)
class Waypoint:
    """Where a value is defined, handed on, or used."""

    file: str
    text: str
    """As it stands in the file; the name is in it."""
    name: str


LEARNING_RATE = (
    Waypoint("pretrain/optimizers/config.py", "learning_rate: float", "learning_rate"),
    Waypoint("pretrain/optimizer.py", "config.learning_rate, config.weight_decay", "learning_rate"),
    Waypoint("pretrain/engines/deepspeed.py", "ours.learning_rate * lr_factor", "learning_rate"),
)
SEQ_LEN = (
    Waypoint("pretrain/sections.py", "seq_len: int", "seq_len"),
    Waypoint("pretrain/training_data.py", "seq_len=config.train.seq_len", "seq_len"),
    Waypoint("pretrain/training_data.py", "open_order(dataset, seq_len=seq_len", "seq_len"),
    Waypoint("shards/order.py", "dataset.view(subset, seq_len)", "seq_len"),
    Waypoint("shards/reader.py", "Windows(self, subset, seq_len, split)", "seq_len"),
    Waypoint("shards/windows.py", "counts = predictable // seq_len", "seq_len"),
)
CHANGES = ("a schedule", "a logger", "an optimizer", "a projector")


def path_text(root: Path, waypoints: tuple[Waypoint, ...]) -> str:
    """Return "HOPS / RENAMES" of a path: how often the value is handed on, and under a new name.

    Raises:
        StalePathError: a waypoint is not in its file.
    """
    for waypoint in waypoints:
        assert waypoint.name in waypoint.text
        if waypoint.text not in (root / waypoint.file).read_text():
            raise StalePathError(f"{waypoint.file} lacks '{waypoint.text}': follow the value anew")
    names = [waypoint.name for waypoint in waypoints]
    renames = sum(name != handed_on for name, handed_on in pairwise(names))
    return f"{len(waypoints) - 1} / {renames}"


def files_touched(root: Path) -> str:
    """Return the files that a fresh reader touched for each of ``CHANGES``, tests included.

    They are those of the table in docs/changing.md. "11, now 6" is 6.

    Raises:
        StalePathError: the table lacks a change.
    """
    page = (root / "docs/changing.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| a")]
    found = []
    for change in CHANGES:
        row = next((cells for cells in rows if cells[1].strip().startswith(change)), None)
        numbers = re.findall(r"\d+", row[4]) if row and len(row) > 4 else []
        if not numbers:
            raise StalePathError(f"docs/changing.md has no count of files for '{change}'")
        found.append(numbers[-1])
    return " / ".join(found)


def rows(root: Path) -> dict[str, str]:
    """Return what was counted -> the figure."""
    return {
        "learning rate, from flag to use: hops / renames": path_text(root, LEARNING_RATE),
        "sequence length, from flag to use: hops / renames": path_text(root, SEQ_LEN),
        f"files touched for {' / '.join(CHANGES)}": files_touched(root),
    }
