"""scores.json: what a model scored on each benchmark, written whole after each.

    model        path and sha256
    benchmarks   by name: score, metric, questions, unanswered, tables, notes, answers (counts),
                 incomplete (why a score is marked or withheld), withheld, settings, date
    average      the README's; null until all six are there

The model is the file's: another's scores are refused. Scores of a trial (--limit) are no part of
the average.
"""

import fcntl
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from mobilellama.config import ConfigError
from mobilellama.files.atomic import lock, read_json, write_json
from mobilellama.vlm.benchmarks.benchmark import Scores
from mobilellama.vlm.benchmarks.published_scores import average

FORMAT = 1


class _Kept(TypedDict):
    """Of what the file has of a benchmark, what is read again."""

    score: float | None
    settings: dict[str, object]
    incomplete: NotRequired[str | None]
    withheld: NotRequired[bool]


class ScoresFile:
    """The file, read or begun.

    Raises:
        ConfigError: it holds another model's scores, or something else.
    """

    def __init__(self, path: Path, *, model: str, model_sha256: str, overwrite: bool) -> None:
        self.path = path
        self._model = {"path": model, "sha256": model_sha256}
        self._benchmarks: dict[str, _Kept] = {}
        self._read(overwrite=overwrite)

    def _read(self, *, overwrite: bool) -> None:
        """Take over what is there of this model; leave another's out if it may be overwritten."""
        if not self.path.exists():
            return
        shown, remedy = str(self.path.parent), "Give another --output, or --overwrite this one"
        try:
            before = read_json(self.path)
            found = before["model"]["sha256"]
            finished = {name: _kept(its) for name, its in dict(before["benchmarks"]).items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            rule = f"holds a {self.path.name} that 'vlm evaluate' has not written"
            raise ConfigError("output", shown, rule, remedy) from None
        if found == self._model["sha256"]:
            self._benchmarks = finished
        elif not overwrite:
            rule = f"holds scores of another model, {before['model'].get('path')}"
            raise ConfigError("output", shown, rule, remedy)

    def add(self, name: str, scores: Scores, settings: Mapping[str, object]) -> None:
        """Keep a benchmark's scores, and write the file.

        Other processes may add theirs meanwhile, each with a benchmark on a GPU of its own.
        """
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            lock(folder, fcntl.LOCK_EX)
            self._read(overwrite=True)
            date = datetime.now(UTC).isoformat(timespec="seconds")
            kept = asdict(scores) | {"settings": dict(settings), "date": date}
            self._benchmarks[name] = _kept(kept)
            content = {"format": FORMAT, "model": self._model, "benchmarks": self._benchmarks}
            write_json(self.path, content | {"average": average(self.scores())})
        finally:
            os.close(folder)

    def scores(self) -> dict[str, float | None]:
        """Return the score of each benchmark that was scored in full; None where withheld."""
        return {name: its["score"] for name, its in self._in_full()}

    def incomplete(self) -> dict[str, str]:
        """Return why scores are marked or withheld, of benchmarks that were scored in full."""
        return {name: why for name, its in self._in_full() if (why := its.get("incomplete"))}

    def withheld(self) -> set[str]:
        """Return which of these benchmarks' scores are withheld."""
        return {name for name, its in self._in_full() if its.get("withheld")}

    def _in_full(self) -> list[tuple[str, _Kept]]:
        found = self._benchmarks.items()
        return [(name, its) for name, its in found if its["settings"].get("limit") is None]


def _kept(its: object) -> _Kept:
    """Return it; raise TypeError or KeyError unless `ScoresFile.add` keeps such of a benchmark."""
    if not isinstance(its, dict):
        raise TypeError
    score, settings = its["score"], its["settings"]
    if isinstance(score, bool) or not isinstance(score, int | float | None):
        raise TypeError
    if not isinstance(settings, dict) or not isinstance(its.get("incomplete"), str | None):
        raise TypeError
    return cast(_Kept, its)
