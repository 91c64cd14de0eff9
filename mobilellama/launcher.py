"""Messages between a launcher and a command, through environment variables and files.

Exit codes are not enough for a job script to decide whether to start a command again. srun returns
the highest code of its tasks, and a killed task returns the number of its signal.

A run also says why it stops: a preemption, the end of the job's time, or a cancellation. A signal
or a file alone does not tell the cause.
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
"""Variable: a file that asks this attempt to save and stop, but no later attempt."""
FAILED_FILE = "MOBILELLAMA_FAILED_FILE"
"""Variable: a file for the message of an error that a retry cannot fix."""
PROGRESS_FILE = "MOBILELLAMA_PROGRESS_FILE"
"""Variable: a file in which a step writes how much earlier starts have done."""
LAUNCH = "MOBILELLAMA_LAUNCH"
"""Variable: the launch's folder. It identifies processes of earlier attempts."""
CANCELLED = "'mobilellama launch cancel'"
"""The cause of a stop that 'launch cancel' has marked."""

_MARK_OF_CANCEL = "cancelled"  # in the launch's folder
_SCONTROL_S = 3
_WARNED_WITHIN_S = 1800
"""A warning this close to the end of the job's time means that the time is over."""


def has_own_log() -> bool:
    """Return whether this process prints to a log of its own, as all ranks of a launch do."""
    return LAUNCH in os.environ


def stop_file() -> Path | None:
    """Return the file with which the launcher asks for a stop; None without a launcher."""
    name = os.environ.get(STOP_FILE)
    return Path(name) if name else None


def ask_to_stop(path: Path, cause: str) -> None:
    """Make a stop file that holds the cause."""
    with whole_file(path) as file:
        file.write(f"{cause}\n".encode())


def signal_cause(name: str) -> str:
    """Return the cause of a signal, as far as this process can know it.

    Args:
        name: of the signal, such as SIGTERM.
    """
    if name == "SIGINT":
        return "Ctrl-C"
    if _is_cancelled():
        return CANCELLED
    if job_name():
        return f"SLURM, which ends or requeues its job ({name})"
    return f"another process ({name})"


def stop_file_cause(path: Path) -> str:
    """Return the cause in a stop file; if it has none, the cause that the launcher knows."""
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
    """Return why the job script asks for a stop, from SLURM's record of the job."""
    try:
        done = subprocess.run(
            ["scontrol", "show", "job", "-o", os.environ.get("SLURM_JOB_ID", "")],
            capture_output=True, text=True, errors="replace", check=False, timeout=_SCONTROL_S,
        )  # fmt: skip
    # No client is here, or the controller does not answer.
    except (OSError, subprocess.TimeoutExpired):
        return "a warning of SLURM's to its job"
    return cause_in_record(done.stdout, now_s=time.time())


def cause_in_record(record: str, *, now_s: float) -> str:
    """Return why SLURM warned a job.

    Args:
        record: the output of 'scontrol show job -o'.
        now_s: time of the warning, in seconds since the epoch.
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
    """Tell the launcher, if there is one, that a retry would fail in the same way.

    The first message is kept: errors of other processes are usually its consequence.
    """
    if name := os.environ.get(FAILED_FILE):
        try:
            with open(name, "x", encoding="utf-8") as file:
                file.write(f"{message}\n")
        except OSError:
            return  # another process told it, or the folder is gone. stderr has the message too


def tell_progress(count: int) -> None:
    """Tell the launcher, if there is one, how much earlier starts have done."""
    if name := os.environ.get(PROGRESS_FILE):
        with contextlib.suppress(OSError):  # no file counts as no progress
            Path(name).write_text(f"{count}\n")


def job_name() -> str | None:
    """Return ``JOB.RESTARTS`` of this process's SLURM job; None if it is in no job."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"{job}.{os.environ.get('SLURM_RESTART_COUNT', 0)}" if job else None
