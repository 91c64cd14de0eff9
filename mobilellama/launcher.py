"""What a launcher tells a command through the environment, and what it is told in return.

A job script cannot tell by exit codes alone whether to start a command again: srun returns the
highest of its tasks', and a task that is killed returns what killed it.
"""

import contextlib
import os
from pathlib import Path

STOP_FILE = "MOBILELLAMA_STOP_FILE"
"""Variable: a file that asks this attempt, and no later one, to save and stop."""
FAILED_FILE = "MOBILELLAMA_FAILED_FILE"
"""Variable: a file for the message of an error that another start would meet again."""
PROGRESS_FILE = "MOBILELLAMA_PROGRESS_FILE"
"""Variable: a file for how much of its work a step finds done when it starts."""
LAUNCH = "MOBILELLAMA_LAUNCH"
"""Variable: the launch's folder, by which processes of a former attempt are known."""


def stop_file() -> Path | None:
    """Return the file by which the launcher asks for a stop; None without a launcher."""
    name = os.environ.get(STOP_FILE)
    return Path(name) if name else None


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
