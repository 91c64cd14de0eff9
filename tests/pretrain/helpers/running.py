"""A run that goes on until it is stopped, how far it is, and what is in its folder."""

from pathlib import Path
from typing import Any

from mobilellama.run_folder import RunFolder
from tests.pretrain.helpers.tiny import train_tiny

FOREVER = {"train.max_steps": 1_000_000, "validation.every_steps": None}


def steps_done(run: RunFolder) -> int:
    return len(run.metrics.read_text().splitlines()) if run.metrics.exists() else 0


def contents(run: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a run, by its path in the run's folder."""
    paths = (path for path in run.rglob("*") if path.is_file())
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def train_until_an_error(dataset: Path, run: Path, fields: dict[str, Any]) -> tuple[str, str]:
    try:
        train_tiny(dataset, run, fields)
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", ""
