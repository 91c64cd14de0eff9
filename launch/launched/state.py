"""The state of a launch: what SLURM says of its jobs, the marks of its script, its run's folder."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypedDict

from mobilellama.config import UserError
from mobilellama.launch import slurm
from mobilellama.launch.folder import (
    Launch,
    LaunchFolder,
    current_jobs,
    is_local,
    parts_of,
    task_number,
)
from mobilellama.launch.launched.logs import begun, starts
from mobilellama.launch.launched.progress_made import progress_made
from mobilellama.launch.steps import STEPS
from mobilellama.run_folder import RunFolder

_WORDS = {
    "timeout": "out of time",
    "deadline": "out of time",
    "node_fail": "a node failed",
    "boot_fail": "a node failed",
    "out_of_memory": "out of memory",
    "requeue_hold": "held",
}
"""SLURM's states whose names are not plain."""
_LOCAL_STOPPED = "stopped"
_NOT_OVER = {*(state.lower() for state in slurm.ACTIVE), "held", "waiting"} - {_LOCAL_STOPPED}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a launch: its run, its tasks, or what follows them."""

    part: str
    job: str
    """SLURM's number of the newest job; empty where there is none."""
    state: str
    """finished, failed, cancelled, held, stopped (by --local), or SLURM's own state in lower case.

    What people read is ``shown``; programs read this.
    """
    reason: str
    nodes: str
    restarts: int

    @property
    def shown(self) -> str:
        """What became of it, in words."""
        if self.state == "pending" and self.restarts:
            return "requeued"
        return _WORDS.get(self.state, self.state)

    @property
    def is_over(self) -> bool:
        """Whether nothing of it waits or runs."""
        return self.state not in _NOT_OVER


class RunProgress(TypedDict, total=False):
    """How far a run is; before its first metrics only its attempts are known."""

    attempts: int
    repeated_steps: int
    step: int
    max_steps: int
    loss: float
    tokens_per_s: float
    left_s: float


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
    is_local: bool = False
    """Whether it runs by --local, so that no job has a number."""
    progress: RunProgress = field(default_factory=RunProgress)
    """Of a run; empty for other steps."""
    message: str = ""
    """Why it failed or was stopped."""
    changed: str = ""
    """When anything of it was last written, in ISO format."""

    @property
    def is_over(self) -> bool:
        """Whether nothing of it waits or runs."""
        return all(part.is_over for part in self.parts)


def status_of(folder: LaunchFolder, launch: Launch, silence: list[str] | None = None) -> Status:
    """Gather what is known of a launch.

    Args:
        folder: where it is kept.
        launch: what was launched.
        silence: why SLURM did not answer before, if it did not; then it is not asked again.
    """
    jobs = current_jobs(folder, launch)
    silence = [] if silence is None else silence
    local = is_local(folder, launch)
    # By --local one command does what the jobs of all parts do, and has the mark of the last.
    names = parts_of(launch)[-1:] if local else parts_of(launch)
    parts = [part_of(name, folder, launch, jobs.get(name, []), silence) for name in names]
    failures = folder.failures()
    deciding = next((part for part in parts if part.state != "finished"), parts[-1])
    message = "\n".join(
        text if part == "run" or local else f"{_shown_part(part)}: {text}"
        for part, text in failures.items()
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
        is_local=local,
        progress=progress_of(folder.run) if folder.run else {},
        message=message,
        changed=last_change(folder).isoformat(timespec="seconds"),
    )


def last_change(folder: LaunchFolder) -> datetime:
    """Return when anything of a launch was last written."""
    run = [folder.run.verdict, folder.run.metrics] if folder.run else []
    found = 0.0
    for path in [folder.launch, *folder.root.glob("*.f*"), *folder.logs.glob("batch-*.log"), *run]:
        with contextlib.suppress(OSError):  # gone meanwhile, or never made
            found = max(found, path.stat().st_mtime)
    return datetime.fromtimestamp(found).astimezone()


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
    local = is_local(folder, launch)
    if local:
        restarts = _local_restarts(folder)
    else:
        restarts = sum(state.restarts for state in states) + max(0, len(jobs) - 1)
    nodes = ",".join(sorted({state.nodes for state in states if state.nodes and state.is_active}))
    active = any(state.is_active for state in states)
    state, reason = summed_up(states) if states else ("", unknown)
    failed = [name for name in folder.failures() if _belongs(name, part)]
    if part == "tasks":
        missing = folder.tasks_missing(launch.tasks, launch.signatures)
        is_done = not missing
        counts = f"{launch.tasks - len(missing)} of {launch.tasks} done"
        counts += f", {len(failed)} failed" if failed else ""
        reason = f"{counts}; {reason}" if reason else counts
    else:
        is_done = folder.is_finished(part, launch.signatures)
    if is_done and not active:
        state, reason = "finished", ("" if part != "tasks" else reason)
    elif folder.cancelled.is_file() and state not in ("running", "completing"):
        state, reason = "cancelled", "by 'launch cancel'"
    elif state == "cancelled" and not reason:
        reason = "by scancel or the cluster's staff"
    elif failed and not active:
        state = "failed"
    if not state and local:
        state = "running" if folder.is_at_work() else _LOCAL_STOPPED
    return Part(
        part="run" if local else part,
        job=jobs[-1] if jobs else "",
        state=state or "unknown",
        reason=reason,
        nodes=nodes,
        restarts=restarts,
    )


def _local_restarts(folder: LaunchFolder) -> int:
    """Return how often --local has started a launch again by itself."""
    if not folder.launch.is_file():
        return 0
    launched_s = folder.launch.stat().st_mtime  # one clock: starts are told by their files too
    return max(0, sum(begun(path)[0] >= launched_s for path in starts(folder)) - 1)


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
        # SLURM's STOPPED keeps its nodes; a launch that is stopped here is over.
        state = "suspended" if bad[0].state == "STOPPED" else bad[0].state.lower()
        return state, reason
    return ("completed", "") if states else ("", "")


def progress_of(run: RunFolder) -> RunProgress:
    """Return how far a run is, from its metrics and attempts; what is damaged is left out."""
    attempts = [run.read_attempt(number) for number in run.attempt_numbers()]
    progress: RunProgress = {
        "attempts": len(attempts),
        "repeated_steps": round(sum(number_of(facts, "repeated_steps") for facts in attempts)),
    }
    records = [record for record in run.read_metrics() if "loss" in record]
    if records:
        last = records[-1]
        left_s, step_s = number_of(last, "left_s"), number_of(last, "step_s")
        size = number_of(attempts[-1], "world_size") if attempts else 1
        steps_left = left_s / step_s if step_s else 0
        progress |= {
            "step": last["step"],
            "loss": last["loss"],
            "left_s": left_s,
            "tokens_per_s": number_of(last, "tokens_per_s_per_gpu") * size,
            "max_steps": last["step"] + (round(steps_left) if math.isfinite(steps_left) else 0),
        }
    return progress


def number_of(facts: Mapping[str, object], name: str) -> float:
    """Return a number of a record; 0 where it is none."""
    value = facts.get(name)
    return value if isinstance(value, int | float) and math.isfinite(value) else 0
