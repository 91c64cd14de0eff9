"""What a launcher tells a command through the environment, and what it is told in return.

A job script cannot tell by exit codes alone whether to start a command again: srun returns the
highest of its tasks', and a task that is killed returns what killed it.

Why a run is to stop is told as what a person can act on: a preemption, the end of the job's time,
a cancellation. A signal or a file alone does not say it.
"""

import contextlib
import os
import re
import subprocess
import time
from datetime import datetime
from pathlib import Path

from mobilellama.files.atomic import whole_file

STOP_FILE = "MOBILELLAMA_STOP_FILE"
"""Variable: a file that asks this attempt, and no later one, to save and stop."""
FAILED_FILE = "MOBILELLAMA_FAILED_FILE"
"""Variable: a file for the message of an error that another start would meet again."""
PROGRESS_FILE = "MOBILELLAMA_PROGRESS_FILE"
"""Variable: a file for how much of its work a step finds done when it starts."""
LAUNCH = "MOBILELLAMA_LAUNCH"
"""Variable: the launch's folder, by which processes of a former attempt are known."""
CANCELLED = "'mobilellama launch cancel'"
"""Why a run stops that 'launch cancel' has marked."""

_MARK_OF_CANCEL = "cancelled"  # in the launch's folder
_SCONTROL_S = 3
_WARNED_WITHIN_S = 1800
"""A warning that comes so near to the end of a job's time is the one of that end."""


def stop_file() -> Path | None:
    """Return the file by which the launcher asks for a stop; None without a launcher."""
    name = os.environ.get(STOP_FILE)
    return Path(name) if name else None


def ask_to_stop(path: Path, cause: str) -> None:
    """Make a stop file that says why."""
    with whole_file(path) as file:
        file.write(f"{cause}\n".encode())


def signal_cause(name: str) -> str:
    """Return why this process got a signal, as far as can be known here.

    Args:
        name: the signal's, as SIGTERM.
    """
    if name == "SIGINT":
        return "Ctrl-C"
    if _is_cancelled():
        return CANCELLED
    if job_name():
        return f"SLURM, which ends or requeues its job ({name})"
    return f"another process ({name})"


def stop_file_cause(path: Path) -> str:
    """Return why a stop file was made: what it says, or else what the launcher knows."""
    with contextlib.suppress(OSError):
        if text := path.read_text(errors="replace").strip():
            return " ".join(text.split())[:200]
    if path != stop_file():
        return f"the user, who made {path}"
    return f"{CANCELLED} --save" if _is_cancelled() else _job_cause()


def _is_cancelled() -> bool:
    launch = os.environ.get(LAUNCH)
    return bool(launch) and (Path(launch) / _MARK_OF_CANCEL).exists()


def _job_cause() -> str:
    """Return why the job's script asks for a stop, by SLURM's record of the job."""
    try:
        done = subprocess.run(
            ["scontrol", "show", "job", "-o", os.environ.get("SLURM_JOB_ID", "")],
            capture_output=True, text=True, check=False, timeout=_SCONTROL_S,
        )  # fmt: skip
    except (
        OSError,
        subprocess.TimeoutExpired,
    ):  # no client here, or no controller
        return "a warning of SLURM's to its job"
    return cause_in_record(done.stdout, now_s=time.time())


def cause_in_record(record: str, *, now_s: float) -> str:
    """Return why a job was warned.

    Args:
        record: what 'scontrol show job -o' says of it.
        now_s: the time of the warning, since the epoch.
    """
    found = dict(re.findall(r"\b(JobState|PreemptTime|StartTime|EndTime)=(\S+)", record))
    times = {name: _seconds(found.get(name)) for name in ("PreemptTime", "StartTime", "EndTime")}
    preempted_s, started_s, end_s = times.values()
    if preempted_s is not None and preempted_s >= (started_s or 0):
        return "a preemption of its job"
    if found.get("JobState", "RUNNING") != "RUNNING":
        return "a requeue of its job"
    if end_s is not None and end_s - now_s < _WARNED_WITHIN_S:
        return "the end of its job's time"
    return "a warning of SLURM's to its job"


def _seconds(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text or "").timestamp()  # without a zone: local, as SLURM's
    except ValueError:
        return None


def tell_failure(message: str) -> None:
    """Tell the launcher, if there is one, that another start would end in the same way.

    The first message stays: of many processes, the others' are most often its consequence.
    """
    if name := os.environ.get(FAILED_FILE):
        try:
            with open(name, "x", encoding="utf-8") as file:
                file.write(f"{message}\n")
        except OSError:
            return  # told already, or the folder is gone; the message is on stderr too


def tell_progress(count: int) -> None:
    """Tell the launcher, if there is one, how much was done by former starts."""
    if name := os.environ.get(PROGRESS_FILE):
        with contextlib.suppress(OSError):  # a start that tells none has made none
            Path(name).write_text(f"{count}\n")


def job_name() -> str | None:
    """Return ``JOB.RESTARTS`` of the SLURM job that this process is in; None outside of one."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"{job}.{os.environ.get('SLURM_RESTART_COUNT', 0)}" if job else None
