"""Launches as text: a table of many, or all that is known of one."""

from collections.abc import Sequence
from datetime import datetime

from mobilellama.launch.folder import LaunchFolder
from mobilellama.launch.launched.progress_made import NOTHING
from mobilellama.launch.launched.state import Part, Status, number_of
from mobilellama.progress import format_count, format_duration
from mobilellama.run_folder import RunFolder
from mobilellama.table import aligned, narrowed

_STARTS_SHOWN = 10
_LEFT = frozenset(("run", "step", "state", "nodes", "part", "reason", "start", "host"))
"""Columns whose cells are set to the left."""
_SPARE = ("restarts", "nodes", "tokens/s", "done again", "job", "age")
"""Columns that a narrow terminal does not show, the first one first."""
_PROGRESS = ("progress", "tokens/s", "left")


def table(found: Sequence[Status], *, now_s: float, width: int | None = None) -> str:
    """Return launches as a table, a line each, and below it why any of them failed.

    Args:
        found: the launches.
        now_s: the time to which ages are told, since the epoch.
        width: of a line; None is without limit.
    """
    rows = [["run", "age", "step", "job", "state", "nodes", "restarts", *_PROGRESS]]
    notes = []
    for status in found:
        part = deciding_part(status)
        job = _job_cell(status, part)
        names = [status.name, age(status.submitted, now_s), status.step, job, part.shown]
        restarts = str(sum(part.restarts for part in status.parts))
        rows.append([*names, part.nodes, restarts, *_progress_cells(status)])
        if status.message and status.state not in ("finished", "running"):
            notes.append(f"{status.name}: {status.message}")
        elif part.reason and status.state in ("pending", "held", "waiting"):
            notes.append(f"{status.name}: {part.reason}")
    # A terminal of 80 columns has no place for what none of them has.
    some = [i for i, cells in enumerate(zip(*rows[1:], strict=True)) if any(cells)]
    shown = _shown([[row[i] for i in some] for row in rows], width)
    return "\n\n".join([shown, *(["\n".join(notes)] if notes else [])])


def _shown(rows: Sequence[Sequence[str]], width: int | None) -> str:
    lines = narrowed(rows, width, spare=_SPARE)
    return aligned(lines, left=[i for i, name in enumerate(lines[0]) if name in _LEFT])


def deciding_part(status: Status) -> Part:
    """Return the part whose state is the launch's."""
    return next((part for part in status.parts if part.state == status.state), status.parts[-1])


def age(since: str, now_s: float) -> str:
    """Return how long ago a moment was, in its largest whole unit, as ``3 d`` or ``45 min``.

    Args:
        since: the moment, in ISO format.
        now_s: the present, since the epoch.
    """
    try:
        seconds = max(0.0, now_s - datetime.fromisoformat(since).timestamp())
    except ValueError:
        return "?"
    return in_largest_unit(seconds)


def in_largest_unit(seconds: float) -> str:
    """Return a duration as whole days, hours, minutes or seconds."""
    for unit, size_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size_s:
            return f"{int(seconds // size_s)} {unit}"
    return f"{int(seconds)} s"


def _job_cell(status: Status, part: Part) -> str:
    return "--local" if status.is_local else part.job


def _progress_cells(status: Status) -> tuple[str, str, str]:
    progress = status.progress
    if "step" not in progress:
        return ("" if status.saved == NOTHING else status.saved), "", ""
    left = in_largest_unit(progress.get("left_s", 0)) if status.state == "running" else ""
    rate = f"{progress.get('tokens_per_s', 0):,.0f}" if status.state == "running" else ""
    return f"{progress['step']:,}/{progress.get('max_steps', 0):,}", rate, left


def describe(status: Status, folder: LaunchFolder, *, width: int | None = None) -> str:
    """Return all that is known of one launch.

    Args:
        status: of the launch.
        folder: where it is kept.
        width: of a table's line; None is without limit.
    """
    part = deciding_part(status)
    lines = [f"{status.name}: {status.step}, {part.shown}", ""]
    facts = {"folder": status.folder, "launched": status.submitted, "saved": status.saved}
    progress = status.progress
    if "step" in progress:
        loss = number_of(progress, "loss")  # 0 where it was no number
        facts["step"] = f"{progress['step']:,} of {progress.get('max_steps', 0):,}, loss {loss:.4f}"
        rate, left_s = progress.get("tokens_per_s", 0), progress.get("left_s", 0)
        facts["speed"] = f"{rate:,.0f} tokens/s, {format_duration(left_s)} left"
    if progress:
        starts, again = progress.get("attempts", 0), progress.get("repeated_steps", 0)
        facts["starts"] = f"{starts}, {format_count(again, 'step')} done again"
    facts["logs"] = str(folder.logs)
    lines += [f"{name:<9} {value}".rstrip() for name, value in facts.items()]
    rows = [("part", "job", "state", "nodes", "restarts", "reason")]
    for part in status.parts:
        job, restarts = _job_cell(status, part), str(part.restarts)
        rows.append((part.part, job, part.shown, part.nodes, restarts, part.reason))
    lines += ["", _shown(rows, width)]
    if folder.run and (begun := start_rows(folder.run)):
        lines += ["", _shown(begun, width)]
    if status.message:
        lines += ["", status.message]
    return "\n".join(lines)


def start_rows(run: RunFolder) -> list[tuple[str, ...]]:
    """Return a table of a run's newest attempts."""
    rows: list[tuple[str, ...]] = [("start", "job", "host", "processes", "from step", "done again")]
    for number in run.attempt_numbers()[-_STARTS_SHOWN:]:
        facts = run.read_attempt(number)
        rows.append(
            (
                str(facts.get("started", "?")),
                str(facts.get("job") or ""),
                str(facts.get("host", "?")),
                str(facts.get("world_size", "?")),
                str(facts.get("saved_step", "?")),
                str(facts.get("repeated_steps", "?")),
            )
        )
    return rows if len(rows) > 1 else []
