"""How far a step is, by what is whole on the disk: a crash in a row is one without more of it."""

from pathlib import Path

from mobilellama.launch.folder import LaunchFolder
from mobilellama.launch.steps import Step
from mobilellama.progress import format_count

NOTHING = "nothing"
"""What a step has saved that is done in one go."""


def progress_made(step: Step, folder: LaunchFolder) -> str:
    """Return what the step has saved: its newest checkpoint, or how many buckets."""
    if folder.run:
        return f"step {max(folder.run.checkpoint_steps(), default=0)}"
    if step.makes_buckets:
        return format_count(count_buckets(folder.made), "bucket")
    return NOTHING


def count_buckets(made: Path) -> int:
    """Return the number of receipts in a dataset's folder."""
    return sum(path.stem.isdigit() for path in made.glob("*/*.json"))
