"""The tables of scores: one benchmark's groups, and all benchmarks beside the published scores."""

from collections.abc import Mapping
from dataclasses import asdict

from mobilellama.table import aligned
from mobilellama.vlm.bench_all import BENCHMARKS
from mobilellama.vlm.benchmark import Scores, Table
from mobilellama.vlm.published_scores import PUBLISHED, average

_ABSENT = "-"


def score_tables(name: str, scores: Scores) -> str:
    """Return a benchmark's score and its groups as text."""
    title = BENCHMARKS[name].title
    lines = [f"{title}: {_shown(scores.score)} ({scores.metric}; {scores.questions:,} questions)"]
    if scores.unanswered:
        lines.append(f"{scores.unanswered:,} questions have no answer, and count as wrong.")
    lines += scores.notes
    lines += [f"\n{_group_table(head, table)}" for head, table in scores.tables.items() if table]
    return "\n".join(lines)


def _group_table(heading: str, table: Table) -> str:
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    rows = [[name, *(_shown(row.get(column)) for column in columns)] for name, row in table.items()]
    return aligned([[heading, *columns], *rows])


def published_table(scores: Mapping[str, float | None], model: str) -> str:
    """Return a model's scores and their average above the published ones.

    Args:
        scores: by benchmark; one that is missing is a dash.
        model: what was scored, for the first column.
    """
    names = list(BENCHMARKS)
    rows = [["", *(BENCHMARKS[name].title for name in names), "average"]]
    rows.append([model, *(_short(scores.get(name)) for name in names), _short(average(scores))])
    for title, published in PUBLISHED.items():
        values = asdict(published)
        rows.append([title, *(_short(values[name]) for name in names), _short(published.average)])
    return aligned(rows)


def _shown(value: float | int | None) -> str:
    if value is None:
        return _ABSENT
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def _short(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.1f}"
