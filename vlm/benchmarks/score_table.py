"""The tables of scores: one benchmark's groups, and all benchmarks beside the published scores."""

from collections.abc import Collection, Mapping

from mobilellama.pretrain.evaluation.answer_counts import MARK, WITHHELD
from mobilellama.progress import format_count
from mobilellama.table import aligned
from mobilellama.vlm.benchmarks.all import BENCHMARKS
from mobilellama.vlm.benchmarks.benchmark import Scores, Table
from mobilellama.vlm.benchmarks.published_scores import PUBLISHED, average

_ABSENT = "-"


def score_tables(name: str, scores: Scores) -> str:
    """Return a benchmark's score and its groups as text."""
    title = BENCHMARKS[name].title
    shown = WITHHELD if scores.withheld else _shown(scores.score)
    if scores.incomplete and not scores.withheld:
        shown += MARK
    lines = [f"{title}: {shown} ({scores.metric}; {format_count(scores.questions, 'question')})"]
    if scores.incomplete:
        lines.append(_why(title, scores.incomplete, withheld=scores.withheld))
    if scores.unanswered:
        unanswered = format_count(scores.unanswered, "question")
        lines.append(f"Counted as wrong: {unanswered} without an answer.")
    lines += scores.notes
    tables = dict(scores.tables)
    if scores.answers:
        counts = {kind.replace("_", " "): count for kind, count in scores.answers.items()}
        tables["answers"] = {"all": counts}
    lines += [f"\n{_group_table(head, table)}" for head, table in tables.items() if table]
    return "\n".join(lines)


def _why(title: str, incomplete: str, *, withheld: bool) -> str:
    if withheld:
        return f"{title} is {WITHHELD}: {incomplete}. --show_withheld shows it anyway."
    return f"{MARK} {title}: {incomplete}."


def _group_table(heading: str, table: Table) -> str:
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    rows = [[name, *(_shown(row.get(column)) for column in columns)] for name, row in table.items()]
    return aligned([[heading, *columns], *rows])


def published_table(
    scores: Mapping[str, float | None],
    model: str,
    *,
    incomplete: Mapping[str, str],
    withheld: Collection[str],
) -> str:
    """Return a model's scores and their average above the published ones.

    Args:
        scores: by benchmark; one that is missing is a dash.
        model: what was scored, for the first column.
        incomplete: by benchmark, why a score is marked or withheld.
        withheld: the benchmarks whose scores are withheld.
    """
    names = list(BENCHMARKS)
    rows = [["", *(BENCHMARKS[name].title for name in names), "average"]]
    marked = {*incomplete} - {*withheld}

    def cell(name: str) -> str:
        if name in withheld:
            return WITHHELD
        return _short(scores.get(name)) + (MARK if name in marked else "")

    mean = average(scores)
    shown = _short(mean) + (MARK if marked and mean is not None else "")
    rows.append([model, *map(cell, names), shown])
    for title, published in PUBLISHED.items():
        cells = [_short(published.scores.get(name)) for name in names]
        rows.append([title, *cells, _short(published.average)])
    notes = [
        _why(BENCHMARKS[name].title, why, withheld=name in withheld)
        for name, why in incomplete.items()
    ]
    return "\n".join([aligned(rows), *notes])


def _shown(value: float | int | None) -> str:
    if value is None:
        return _ABSENT
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def _short(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.1f}"
