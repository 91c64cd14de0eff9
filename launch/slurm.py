"""SLURM's commands: submit, ask, cancel. Errors name the command and what it said."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mobilellama.config import UserError

ACTIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "STOPPED",
          "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING", "SIGNALING", "STAGE_OUT")  # fmt: skip
"""States of a job that is not over; a job SLURM does not know any more is over."""

NEVER = "DependencyNeverSatisfied"
"""Reason of a job that waits for one that has failed."""

_TIMEOUT_S = 60
# What the commands print, as Slurm 22.05 and later, where no controller can be asked.
_NO_CLUSTER = "Could not establish a configuration source"
_NO_ANSWER = ("Unable to contact slurm controller", "Socket timed out on send/recv operation")
_REMEDY = (
    "Run this on a node of a SLURM cluster whose controller is up ('scontrol ping' tells), or use "
    "--local to run on this machine"
)
# What sbatch would hand on to a job that is submitted from inside of another, and what would
# overrule the options of our scripts. Where the cluster is, is left.
_OF_A_JOB = re.compile(r"(SLURM|SLURMD|SBATCH|SRUN|SALLOC|MOBILELLAMA)_")
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "MOBILELLAMA_TRACEBACK")
_ARRAY_SIZE = re.compile(r"^MaxArraySize\s*=\s*([0-9]+)", re.MULTILINE)
_NUMBER = re.compile(r"([0-9]+)(;\S+)?")
# NAME=VALUE pairs of 'scontrol show job -o', whose values may hold spaces.
_PAIR = re.compile(r"(?:^| )([A-Za-z][\w:/]*)=(.*?)(?= [A-Za-z][\w:/]*=|$)")


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What SLURM says of a job, or of one task of an array."""

    id: str
    state: str
    reason: str
    nodes: str
    restarts: int
    task: str | None = None
    """Which tasks of an array, as 3 or 4-15; None for other jobs."""
    exit_code: str = ""
    start: str = ""

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ACTIVE


def require_commands(*names: str) -> None:
    """Raise UserError unless SLURM's commands are here."""
    for name in names:
        if shutil.which(name) is None:
            raise UserError(
                f"{name}: not found. Run this on a login node of a SLURM cluster, install its "
                "client (Debian: apt-get install slurm-client), or use --local to run on this "
                "machine"
            )


def call(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one of SLURM's commands.

    Raises:
        UserError: it is not here, reaches no controller, or (with `check`) refuses.
    """
    require_commands(argv[0])
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S,
            stdin=subprocess.DEVNULL, check=False, env=environment(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UserError(f"{argv[0]}: no answer in {_TIMEOUT_S} s. {_REMEDY}") from None
    if done.returncode:
        _require_controller(argv[0], done.stderr)
    if check and done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise UserError(f"{shlex.join(argv)}: {said or f'exit code {done.returncode}'}")
    return done


def _require_controller(name: str, said: str) -> None:
    """Raise UserError if a command says that it has reached no controller."""
    if _NO_CLUSTER in said:
        raise UserError(f"{name}: SLURM has no configuration on this machine. {_REMEDY}")
    if any(words in said for words in _NO_ANSWER):
        raise UserError(f"{name}: SLURM's controller does not answer. {_REMEDY}")


def environment() -> dict[str, str]:
    """Return this process's environment without what belongs to a job that it is in."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not _OF_A_JOB.match(name)
    }


def max_array_size() -> int | None:
    """Return the cluster's ``MaxArraySize``, which all indices of an array are below.

    Returns:
        The number; None if the configuration does not say it.

    Raises:
        UserError: the controller does not answer.
    """
    found = _ARRAY_SIZE.search(call("scontrol", "show", "config").stdout)
    return int(found[1]) if found else None


def submit(script: str, *options: str) -> str:
    """Submit a script and return the job's number.

    Raises:
        UserError: SLURM refuses it; the message is SLURM's.
    """
    done = call("sbatch", "--parsable", *options, script, check=False)
    if done.returncode:
        raise UserError(
            f"sbatch refuses {script}: {_said(done)}. Fix the options of --slurm or the site's "
            "file ('mobilellama launch doctor' shows partitions and GPUs)"
        )
    # A site's own sbatch may print lines of its own before JOB or JOB;CLUSTER.
    last = (done.stdout.split("\n") if done.stdout else [""])[-2:][0].strip()
    number = _NUMBER.fullmatch(last)
    if not number:
        said = " ".join((done.stdout + done.stderr).split()) or "nothing"
        raise UserError(
            f"sbatch printed no job number for {script}. It printed: {said}. Look for the job "
            "with 'squeue --me'; does slurm.extra hold --test-only?"
        )
    return number[1]


def test_submit(script: str, *options: str) -> None:
    """Ask SLURM whether it would take a script.

    Raises:
        UserError: it would not.
    """
    done = call("sbatch", "--test-only", *options, script, check=False)
    if done.returncode:
        raise UserError(
            f"sbatch --test-only refuses {script}: {_said(done)}. Fix the options of --slurm or "
            "the site's file ('mobilellama launch doctor' shows partitions and GPUs)"
        )


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a command complained of, on one line and without its name."""
    lines = [line.removeprefix("sbatch: error: ") for line in done.stderr.splitlines()]
    lines = [line.removeprefix("allocation failure: ") for line in lines]
    said = "; ".join(dict.fromkeys(line.strip() for line in lines if line.strip()))
    return said.rstrip(".") or f"exit code {done.returncode}"


def states(job: str) -> list[JobState]:
    """Return the states of a job, of all its tasks if it is an array; none if it is forgotten.

    The controller forgets jobs some minutes after their end (MinJobAge); then the accounting,
    where the site has one, is asked.

    Raises:
        UserError: the controller does not answer.
    """
    done = call("scontrol", "show", "job", "-o", job, check=False)
    if done.returncode == 0:
        records = [dict(_PAIR.findall(line)) for line in done.stdout.splitlines()]
        return [_state(record) for record in records if "JobState" in record]
    if "Invalid job id" not in done.stderr:
        raise UserError(f"scontrol: {_said(done)}. {_REMEDY}")
    return _from_accounting(job)


def _state(record: dict[str, str]) -> JobState:
    def known(name: str) -> str:
        value = record.get(name, "")
        return "" if value in ("(null)", "None", "Unknown") else value

    return JobState(
        id=record.get("ArrayJobId", record["JobId"]),
        task=record.get("ArrayTaskId"),
        state=record["JobState"],
        reason=known("Reason"),
        nodes=known("NodeList"),
        restarts=int(record.get("Restarts", 0)),
        exit_code=known("ExitCode"),
        start=known("StartTime"),
    )


def _from_accounting(job: str) -> list[JobState]:
    if shutil.which("sacct") is None:
        return []
    form = "--format=JobID,State,NodeList,ExitCode,Start"
    done = call("sacct", "-X", "-n", "-P", "-j", job, form, check=False)
    if done.returncode:
        return []  # no accounting here
    found = []
    for line in done.stdout.splitlines():
        number, state, nodes, code, start = (line.split("|") + [""] * 5)[:5]
        parent, _, task = number.partition("_")
        found.append(
            JobState(
                id=parent,
                task=task or None,
                state=(state.split() or ["UNKNOWN"])[0],  # "CANCELLED by 1000"
                reason="",
                nodes="" if nodes.startswith("None") else nodes,
                restarts=0,
                exit_code=code,
                start=start,
            )
        )
    return found


def is_active(job: str) -> bool:
    """Return whether a job, or any task of it, waits or runs."""
    return any(state.is_active for state in states(job))


def named(name: str) -> list[str]:
    """Return the numbers of this user's jobs in the queue that have a name."""
    done = call("squeue", "--me", "-h", "--name", name, "-o", "%F")
    return sorted(set(done.stdout.split()), key=int)


def cancel(jobs: Sequence[str], *, timeout_s: float = 60.0) -> list[str]:
    """Cancel jobs, and again if a requeue that was under way brings one back.

    Returns:
        Those that are still ending after `timeout_s`.
    """
    end_s = time.monotonic() + timeout_s
    left = list(jobs)
    while left:
        require_commands("scancel")
        with contextlib.suppress(UserError):  # is_active tells of a controller that stays silent
            call("scancel", *left, check=False)
        time.sleep(1.0)
        left = [job for job in left if is_active(job)]
        if time.monotonic() > end_s:
            break
    return left
