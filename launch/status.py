"""Show launched steps: their jobs, and how far they are.

    mobilellama launch status               all that you launched lately
    mobilellama launch status RUN           one: its jobs, starts, and why it ended
    mobilellama launch status RUN --json    the same for programs

What SLURM says comes from its controller (and accounting, where the site has it); how far a run
is, from its folder. RUN is a run's folder, or the output of another step.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mobilellama.config import UserError
from mobilellama.launch import slurm
from mobilellama.launch.folder import (
    Launch,
    LaunchFolder,
    current_jobs,
    find,
    parts_of,
    require,
    task_number,
)
from mobilellama.launch.known import known
from mobilellama.launch.progress_made import NOTHING, progress_made
from mobilellama.launch.steps import STEPS
from mobilellama.progress import format_duration
from mobilellama.run_folder import RunFolder
from mobilellama.table import aligned

log = logging.getLogger(__name__)

_SHOWN = 20
_STARTS_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'launch status'."""

    run: str | None = None
    """A run's folder or the output of another launched step; None lists the newest launches."""
    json: bool = False
    """Print JSON instead of tables."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a launch: its run, its tasks, or what follows them."""

    part: str
    job: str
    """SLURM's number of the newest job; empty where there is none."""
    state: str
    """finished, failed, cancelled, held, or SLURM's own state in lower case."""
    reason: str
    nodes: str
    restarts: int


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is known of one launch."""

    folder: str
    step: str
    name: str
    submitted: str
    state: str
    """The state of the part that decides: the first that is not finished."""
    parts: list[Part]
    saved: str
    """What is whole on the disk."""
    progress: dict[str, Any] = field(default_factory=dict)
    """Of a run: step, max_steps, loss, tokens_per_s, left_s, attempts, repeated_steps."""
    message: str = ""
    """Why it failed or was stopped."""


def main(config: Config) -> int:
    """Print the status of one launch or of the newest."""
    if config.run is not None:
        folder, launch = require(config.run)
        status = status_of(folder, launch)
        print(json.dumps(asdict(status), indent=2) if config.json else describe(status, folder))
        return 0
    found = list_known()
    if config.json:
        print(json.dumps([asdict(status) for status in found], indent=2))
    elif not found:
        print("nothing was launched yet; see 'mobilellama launch --help'")
    else:
        print(table(found))
    return 0


def list_known() -> list[Status]:
    """Return the newest launches that are still on the disk, the newest last."""
    found: list[Status] = []
    silence: list[str] = []  # a controller that does not answer is asked once
    for made in known()[-_SHOWN:]:
        folder = find(made)
        if folder is None:
            continue  # deleted since
        try:
            if launch := folder.read():
                found.append(status_of(folder, launch, silence))
        except UserError as error:
            log.warning("%s", error)  # one that is damaged does not hide the others
    return found


def status_of(folder: LaunchFolder, launch: Launch, silence: list[str] | None = None) -> Status:
    """Gather what is known of a launch.

    Args:
        folder: where it is kept.
        launch: what was launched.
        silence: why SLURM did not answer before, if it did not; then it is not asked again.
    """
    jobs = current_jobs(folder, launch)
    silence = [] if silence is None else silence
    parts = [
        part_of(name, folder, launch, jobs.get(name, []), silence) for name in parts_of(launch)
    ]
    failures = folder.failures()
    deciding = next((part for part in parts if part.state != "finished"), parts[-1])
    message = "\n".join(
        text if part == "run" else f"{_shown_part(part)}: {text}" for part, text in failures.items()
    )
    verdict = folder.run.read_verdict() if folder.run else None
    if not message and verdict and verdict.kind != "finished":
        message = verdict.message
    return Status(
        folder=str(folder.made),
        step=launch.step,
        name=launch.name,
        submitted=launch.submitted,
        state=deciding.state,
        parts=parts,
        saved=progress_made(STEPS[launch.step], folder),
        progress=progress_of(folder.run) if folder.run else {},
        message=message,
    )


def _shown_part(part: str) -> str:
    number = task_number(part)
    return part if number is None else f"task {number}"


def part_of(
    part: str,
    folder: LaunchFolder,
    launch: Launch,
    jobs: Sequence[str],
    silence: list[str] | None = None,
) -> Part:
    """Return the state of one part, from its jobs and the marks of its script."""
    states, unknown = _ask(jobs, [] if silence is None else silence)
    restarts = sum(state.restarts for state in states) + max(0, len(jobs) - 1)
    nodes = ",".join(sorted({state.nodes for state in states if state.nodes and state.is_active}))
    active = any(state.is_active for state in states)
    state, reason = summed_up(states) if states else ("", unknown)
    failed = [name for name in folder.failures() if _belongs(name, part)]
    if part == "tasks":
        missing = folder.tasks_missing(launch.tasks, launch.signature)
        is_done = not missing
        counts = f"{launch.tasks - len(missing)} of {launch.tasks} done"
        counts += f", {len(failed)} failed" if failed else ""
        reason = f"{counts}; {reason}" if reason else counts
    else:
        is_done = folder.is_finished(part, launch.signature)
    if is_done and not active:
        state, reason = "finished", ("" if part != "tasks" else reason)
    elif folder.cancelled.is_file() and state not in ("running", "completing"):
        state, reason = "cancelled", ""
    elif failed and not active:
        state = "failed"
    return Part(
        part=part,
        job=jobs[-1] if jobs else "",
        state=state or ("unknown" if launch.jobs else _local_state(folder)),
        reason=reason,
        nodes=nodes,
        restarts=restarts,
    )


def _local_state(folder: LaunchFolder) -> str:
    return "running on a machine" if folder.is_at_work() else "stopped on a machine"


def _ask(jobs: Sequence[str], silence: list[str]) -> tuple[list[slurm.JobState], str]:
    """Return the states of jobs, or why SLURM does not tell."""
    if not jobs:
        return [], ""
    if not silence:
        try:
            return [state for job in jobs for state in slurm.states(job)], ""
        except UserError as error:
            silence.append(str(error))
    return [], silence[0]


def _belongs(mark: str, part: str) -> bool:
    return mark == part or (part == "tasks" and task_number(mark) is not None)


def summed_up(states: Sequence[slurm.JobState]) -> tuple[str, str]:
    """Return one state, and why, for the tasks of a job: what still has to come counts most."""
    for wanted in ("RUNNING", "COMPLETING", "PENDING"):
        for state in states:
            if state.state == wanted:
                if wanted == "PENDING" and state.reason.startswith("Dependency"):
                    never = state.reason == slurm.NEVER
                    why = "what it waits for has failed" if never else "waits for the step before"
                    return "held" if never else "waiting", f"{why} ({state.reason})"
                reason = state.reason if wanted == "PENDING" else ""
                return wanted.lower(), reason
    bad = [state for state in states if state.state != "COMPLETED"]
    if bad:
        reason = bad[0].reason or (f"exit code {bad[0].exit_code}" if bad[0].exit_code else "")
        return bad[0].state.lower(), reason
    return ("completed", "") if states else ("", "")


def progress_of(run: RunFolder) -> dict[str, Any]:
    """Return how far a run is, from its metrics and attempts; what is damaged is left out."""
    attempts = [run.read_attempt(number) for number in run.attempt_numbers()]
    progress: dict[str, Any] = {
        "attempts": len(attempts),
        "repeated_steps": round(sum(_number(facts, "repeated_steps") for facts in attempts)),
    }
    records = [record for record in run.read_metrics() if "loss" in record]
    if records:
        last = records[-1]
        left_s, step_s = _number(last, "left_s"), _number(last, "step_s")
        size = _number(attempts[-1], "world_size") if attempts else 1
        progress |= {
            "step": last["step"],
            "loss": last["loss"],
            "left_s": left_s,
            "tokens_per_s": _number(last, "tokens_per_s_per_gpu") * size,
            "max_steps": last["step"] + (round(left_s / step_s) if step_s else 0),
        }
    return progress


def _number(facts: Mapping[str, Any], name: str) -> float:
    value = facts.get(name)
    return value if isinstance(value, int | float) and math.isfinite(value) else 0


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
        loss = _number(progress, "loss")  # 0 where it was no number
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
