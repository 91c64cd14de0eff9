"""The results file of 'pretrain evaluate': opened or begun, and written whole after each task.

    model      path and fingerprint        settings   add_bos, dtype
    tasks      by name: version, shots, samples, metrics, leaves (subjects), answers (counts),
               withheld (null, or the reason and the metrics), settings, date, ...
    mean       over the tasks that compare with the published ones

The model and the settings are the file's: another's results are refused. A task's own settings
(shots, limit, data, harness) decide whether its stored result stands or is made again.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NotRequired, TypedDict

from mobilellama.config import ConfigError, as_given
from mobilellama.files.atomic import read_json, write_json
from mobilellama.pretrain.evaluation.answer_counts import ASKED, AnswerCounts
from mobilellama.pretrain.evaluation.data import Spec
from mobilellama.pretrain.evaluation.harness import Score
from mobilellama.pretrain.evaluation.score_table import mean_of_comparable
from mobilellama.pretrain.evaluation.scored_model import ScoredModel
from mobilellama.pretrain.evaluation.task_result import Mean, TaskResult

log = logging.getLogger(__name__)

_FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TaskPlan:
    """One task, with everything that decides its score beside the model."""

    name: str
    shots: int | None
    specs: list[Spec] | None
    """Overrides that bring local data; None fetches."""
    settings: dict[str, object]
    """What a stored result must have been made with to stand for this one."""


class _Model(TypedDict):
    path: str
    fingerprint: str


class _Content(TypedDict):
    """What the file holds."""

    format: int
    model: _Model
    settings: dict[str, object]
    tasks: dict[str, TaskResult]
    mean: NotRequired[Mean | None]


class Results:
    """The results file: opened or begun, and written whole after each task."""

    def __init__(
        self, path: Path | None, content: _Content, *, show_withheld: bool = False
    ) -> None:
        self._path, self._content, self._show_withheld = path, content, show_withheld
        before = dict(content["tasks"])
        content["tasks"] = {name: withhold(its, show=show_withheld) for name, its in before.items()}
        if content["tasks"] != before:  # made with the other wish
            self._write()

    @classmethod
    def open(
        cls,
        output: str | None,
        model: ScoredModel,
        *,
        add_bos: bool,
        dtype: str,
        show_withheld: bool = False,
    ) -> "Results":
        """Go on with the file of the same model and settings, or begin one.

        Args:
            output: the file; None keeps the results in memory.
            model: its name and fingerprint are kept.
            add_bos: whether prompts begin with <s>.
            dtype: of the weights.
            show_withheld: show the scores that are withheld in the file.

        Raises:
            ConfigError: the file is of another model, of other settings, or something else.
        """
        path = Path(output) if output else None
        content: _Content = {
            "format": _FORMAT_VERSION,
            "model": {"path": model.name, "fingerprint": model.fingerprint},
            "settings": {"add_bos": add_bos, "dtype": dtype},
            "tasks": {},
        }
        if path is None or not path.exists():
            if path is not None and not path.parent.is_dir():
                raise ConfigError("output", str(path), "its folder does not exist", "Make it")
            return cls(path, content, show_withheld=show_withheld)
        remedy = "Give another file, or remove this one"
        try:
            before = read_json(path)
            found = {"model": before["model"]["fingerprint"], **before["settings"]}
            finished: dict[str, TaskResult] = dict(before["tasks"])
            for result in finished.values():
                _require_result(result)
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            rule = "exists, but is not a results file of 'pretrain evaluate'"
            raise ConfigError("output", str(path), rule, remedy) from None
        wanted = {"model": content["model"]["fingerprint"], **content["settings"]}
        for name, value in wanted.items():
            if found.get(name) != value:
                held = as_given(found.get(name))
                rule = f"holds results with {name} = {held}, but this call has {as_given(value)}"
                raise ConfigError("output", str(path), rule, remedy)
        content["tasks"] = finished
        return cls(path, content, show_withheld=show_withheld)

    def has(self, plan: TaskPlan) -> bool:
        """Whether the task is finished, with the same settings."""
        stored = self._content["tasks"].get(plan.name)
        if stored is None:
            return False
        changed = [n for n, value in plan.settings.items() if stored["settings"].get(n) != value]
        if changed:
            log.info("%s: scored before with other %s; run again", plan.name, " and ".join(changed))
            return False
        log.info("%s: scored already (%s)", plan.name, stored["date"])
        return True

    def add(self, plan: TaskPlan, score: Score, duration_s: float, *, device: str) -> None:
        """Keep a task's result, and write the file."""
        counts = AnswerCounts.of_json(score.answers)
        if counts and counts.total:
            log.warning("%s: %s", plan.name, counts)
        result: TaskResult = {
            "version": score.version,
            "shots": score.shots,
            "samples": score.num_samples,
            "metrics": score.metrics,
            "leaves": score.leaves,
            "answers": score.answers,
            "settings": plan.settings,
            "truncated_prompts": score.answers["prompts_cut"] or 0,
            "device": device,
            "torch": metadata.version("torch"),
            "transformers": metadata.version("transformers"),
            "duration_s": round(duration_s, 1),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._content["tasks"][plan.name] = withhold(result, show=self._show_withheld)
        self._write()

    def _write(self) -> None:
        self._content["mean"] = mean_of_comparable(self._content["tasks"])
        if self._path:
            write_json(self._path, self._content)

    def tasks_of(self, names: list[str]) -> dict[str, TaskResult]:
        """Return the results of some tasks."""
        return {name: self._content["tasks"][name] for name in names}


_KINDS: dict[str, type] = {
    "version": str, "shots": int, "samples": int, "metrics": dict, "leaves": dict,
    "settings": dict, "truncated_prompts": int, "date": str,
}  # fmt: skip


def _require_result(result: TaskResult) -> None:
    """Raise TypeError or KeyError unless this is what `Results.add` keeps of a task."""
    numbers = [*result["metrics"].values(), *(result.get("answers") or {}).values()]
    withheld = result.get("withheld") or {"reason": "", "metrics": {}, "leaves": {}}
    if not (
        all(isinstance(result.get(name), kind) for name, kind in _KINDS.items())
        and all(isinstance(number, int | float | None) for number in numbers)
        and ASKED in (result.get("answers") or {ASKED: 0})
        and {*withheld} == {"reason", "metrics", "leaves"}
        and all(isinstance(leaf, dict) for leaf in result["leaves"].values())
    ):
        raise TypeError


def withhold(result: TaskResult, *, show: bool) -> TaskResult:
    """Return a task's result with null for its metrics where too many answers are incomplete.

    Args:
        result: as ``Results.add`` makes it, or as this has returned it.
        show: give the metrics back all the same.
    """
    whole = result.copy()
    counts = AnswerCounts.of_json(result.get("answers"))
    if counts is None:  # of a former version, which counted nothing
        return whole
    if kept := result.get("withheld"):
        whole["metrics"], whole["leaves"] = kept["metrics"], kept["leaves"]
    whole["withheld"] = None
    if counts.withheld and not show:
        metrics, leaves = whole["metrics"], whole["leaves"]
        whole["metrics"] = dict.fromkeys(metrics)
        whole["leaves"] = {name: dict.fromkeys(its) for name, its in leaves.items()}
        whole["withheld"] = {"reason": str(counts), "metrics": metrics, "leaves": leaves}
    return whole
