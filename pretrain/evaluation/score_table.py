"""The table of scores, beside the published ones."""

from collections.abc import Mapping
from pathlib import Path

from mobilellama.pretrain.evaluation.answer_counts import MARK, WITHHELD, AnswerCounts
from mobilellama.pretrain.evaluation.published_scores import (
    MMLU_SUBJECTS,
    PUBLISHED,
    PUBLISHED_CHAT_HELLASWAG,
)
from mobilellama.pretrain.evaluation.task_result import Mean, TaskResult
from mobilellama.table import aligned

_HEAD = (
    "task", "version", "shots", "metric", "n", "incomplete", "score", "stderr", "1.4B", "2.7B",
)  # fmt: skip


def score_table(tasks: Mapping[str, TaskResult], model: str, *, limit: int | None) -> str:
    """Return the table as text.

    Args:
        tasks: a result for each task, as in the results file.
        model: what was scored, for the heading.
        limit: questions that each task was cut to.
    """
    rows = [_HEAD, *(_row(name, result) for name, result in tasks.items())]
    if mean := mean_of_comparable(tasks):
        label, score = f"mean of {len(mean['tasks'])}", f"{mean['score']:.4f}"
        published = (f"{mean[size]:.4f}" for size in ("mobilellama_1_4b", "mobilellama_2_7b"))
        marked = any(_marked(tasks[name]) for name in mean["tasks"])
        score += MARK if marked else ""
        rows.append((label, "", "", "", "", "", score, "", *published))
    title = f"{Path(model).name}, and MobileLLaMA as published (arXiv 2312.16886, table 3)"
    table = aligned(rows, left=(_HEAD.index("task"), _HEAD.index("metric")))
    return "\n".join([title, table, *_notes(tasks, limit)])


def mean_of_comparable(tasks: Mapping[str, TaskResult]) -> Mean | None:
    """Return the plain mean accuracy over the tasks that can be compared: ours, and both sizes'.

    None where there are fewer than two.
    """
    accuracies = {
        name: accuracy
        for name, result in tasks.items()
        if not _difference(name, result) and (accuracy := result["metrics"].get("acc")) is not None
    }
    names = [*accuracies]
    if len(names) < 2:
        return None
    scores = [PUBLISHED[name] for name in names]
    return {
        "tasks": names,
        "score": sum(accuracies.values()) / len(names),
        "mobilellama_1_4b": sum(score.mobilellama_1_4b for score in scores) / len(names),
        "mobilellama_2_7b": sum(score.mobilellama_2_7b for score in scores) / len(names),
    }


def _difference(name: str, result: TaskResult) -> str:
    """Return what sets a result apart from the published one; nothing if they compare."""
    if name not in PUBLISHED:
        return "not published"
    if result.get("withheld"):
        return WITHHELD
    if result["metrics"].get("acc") is None:
        return "it has no accuracy"
    if result["shots"] != PUBLISHED[name].shots:
        return f"the published score is of {PUBLISHED[name].shots} shots"
    if name == "mmlu" and len(result["leaves"]) < MMLU_SUBJECTS:
        return f"{len(result['leaves'])} of {MMLU_SUBJECTS} subjects"
    return ""


def _row(name: str, result: TaskResult) -> tuple[str, ...]:
    metrics = result["metrics"]
    # Plain accuracy is what the paper has; a further task shows the first metric that it has.
    metric = "acc" if "acc" in metrics else next(iter(metrics), "-")
    stderr = metrics.get(f"{metric}_stderr")
    counts = AnswerCounts.of_json(result.get("answers"))
    score = "-" if metrics.get(metric) is None else f"{metrics[metric]:.4f}"
    score += MARK if _marked(result) else ""
    published = None if _difference(name, result) else PUBLISHED[name]
    return (
        name,
        result["version"],
        str(result["shots"]),
        metric,
        str(result["samples"]),
        "-" if counts is None else f"{100 * counts.share:.2f} %",
        WITHHELD if result.get("withheld") else score,
        "-" if stderr is None else f"{stderr:.4f}",
        f"{published.mobilellama_1_4b:g}" if published else "-",
        f"{published.mobilellama_2_7b:g}" if published else "-",
    )


def _marked(result: TaskResult) -> bool:
    """Return whether a score is shown with a mark: some of its answers are incomplete."""
    counts = AnswerCounts.of_json(result.get("answers"))
    return counts is not None and counts.marked and not result.get("withheld")


def _notes(tasks: Mapping[str, TaskResult], limit: int | None) -> list[str]:
    notes = []
    if limit is not None:
        notes.append(f"Only the first {limit} questions of each task (--limit): not a measurement.")
    elif other := [
        f"{name} {its['samples']:,} of {PUBLISHED[name].questions:,}"
        for name, its in tasks.items()
        if name in PUBLISHED and its["samples"] != PUBLISHED[name].questions
    ]:
        notes.append(f"Not a measurement: the numbers of questions differ: {', '.join(other)}.")
    known = {name: _difference(name, its) for name, its in tasks.items() if name in PUBLISHED}
    if other := [f"{name} ({what})" for name, what in known.items() if what]:
        notes.append(f"Not compared: {', '.join(other)}.")
    for name, its in tasks.items():
        counts = AnswerCounts.of_json(its.get("answers"))
        if withheld := its.get("withheld"):
            remedy = "--show_withheld shows it anyway"
            notes.append(f"{name} is {WITHHELD}: {withheld['reason']}. {remedy}.")
        elif counts and counts.total:
            notes.append(f"{MARK if counts.marked else ' '} {name}: {counts}.".lstrip())
        elif counts is None and its["truncated_prompts"]:  # of a former version
            cut = its["truncated_prompts"]
            notes.append(f"{name}: {cut} prompts were cut at their start to the model's length.")
    if "hellaswag" in tasks:
        chat = ", ".join(
            f"{size} {base:.2f} -> {tuned:.2f}"
            for size, (base, tuned) in PUBLISHED_CHAT_HELLASWAG.items()
        )
        notes.append(
            "HellaSwag of the authors' chat models, base -> chat (they do not say how many shots): "
            f"{chat}."
        )
    return notes
