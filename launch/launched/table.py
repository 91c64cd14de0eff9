"""Launches as text: a table of many, or all that is known of one."""

from collections.abc import Sequence

from mobilellama.launch.folder import (
    LaunchFolder,
)
from mobilellama.launch.launched.progress_made import NOTHING
from mobilellama.launch.launched.state import Status, number_of
from mobilellama.progress import format_duration
from mobilellama.run_folder import RunFolder
from mobilellama.table import aligned

_STARTS_SHOWN = 10


def table(found: Sequence[Status]) -> str:
    """Return launches as a table, a line each, and below it why any of them failed."""
    rows = [("run", "step", "job", "state", "nodes", "restarts", "progress", "tokens/s", "left")]
    notes = []
    for status in found:
        part = next((part for part in status.parts if part.state == status.state), status.parts[-1])
        rows.append(
            (
                status.name, status.step, part.job, status.state, part.nodes,
                str(sum(part.restarts for part in status.parts)), *_progress_cells(status),
            )
        )  # fmt: skip
        if status.message and status.state not in ("finished", "running"):
            notes.append(f"{status.name}: {status.message}")
        elif part.reason and status.state in ("pending", "held", "waiting"):
            notes.append(f"{status.name}: {part.reason}")
    shown = aligned(rows, left=(0, 1, 3, 4))
    return "\n\n".join([shown, *(["\n".join(notes)] if notes else [])])


def _progress_cells(status: Status) -> tuple[str, str, str]:
    progress = status.progress
    if "step" not in progress:
        return ("" if status.saved == NOTHING else status.saved), "", ""
    left = format_duration(progress["left_s"]) if status.state == "running" else ""
    rate = f"{progress['tokens_per_s']:,.0f}" if status.state == "running" else ""
    return f"step {progress['step']:,}/{progress['max_steps']:,}", rate, left


def describe(status: Status, folder: LaunchFolder) -> str:
    """Return all that is known of one launch."""
    lines = [f"{status.name}: {status.step}, {status.state}", ""]
    facts = {"folder": status.folder, "launched": status.submitted, "saved": status.saved}
    progress = status.progress
    if "step" in progress:
        loss = number_of(progress, "loss")  # 0 where it was no number
        facts["step"] = f"{progress['step']:,} of {progress['max_steps']:,}, loss {loss:.4f}"
        facts["speed"] = (
            f"{progress['tokens_per_s']:,.0f} tokens/s, {format_duration(progress['left_s'])} left"
        )
    if progress:
        facts["starts"] = f"{progress['attempts']}, {progress['repeated_steps']} steps done again"
    facts["logs"] = str(folder.logs)
    lines += [f"{name:<9} {value}" for name, value in facts.items()]
    rows = [("part", "job", "state", "nodes", "restarts", "reason")]
    rows += [
        (part.part, part.job, part.state, part.nodes, str(part.restarts), part.reason)
        for part in status.parts
    ]
    lines += ["", aligned(rows, left=(0, 2, 3, 5))]
    if folder.run and (begun := start_rows(folder.run)):
        lines += ["", aligned(begun, left=(0, 1, 2))]
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
