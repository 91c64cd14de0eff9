"""The doctor's job: what it finds on two nodes, and the wait for it.

On the login node ``run_job`` submits a script, says what becomes of it in the queue, and cancels
it where it does not start or end in time. On the nodes, one process a GPU, or one a node, runs

    srun python -m mobilellama.launch.doctor_job FOLDER GPUS

and goes through the STAGES in order. It writes FOLDER/rank-N.json at each of them, so that also a
process that hangs has said where.
"""

import contextlib
import importlib.metadata
import logging
import os
import platform
import shlex
import sys
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mobilellama
from mobilellama.config import one_line
from mobilellama.files.atomic import read_json, write_json
from mobilellama.launch import slurm
from mobilellama.launch.config import SlurmConfig
from mobilellama.launch.health import BadNodeError, Place, join, time_all_reduce

log = logging.getLogger(__name__)

STAGES = ("shared folder", "torch", "GPUs", "rendezvous", "clocks", "all-reduce")
DONE = "done"
LOGIN_FILE = "login"

_SIZES_MIB = {True: (1, 16, 256), False: (1, 4, 16)}  # with GPUs and without
_FILES_S = 60.0  # NFS clients remember a folder's content for 30 s, and nodes start apart
_ANSWER_S = 20.0
_SEEN_S = 15.0
_JOIN_S = 90.0
_NODES_S = 240.0  # cold imports of torch from a busy disk have taken minutes
_LIMIT_MINUTES = 6
_AFTER_ERROR_S = 10.0
_ASK_EVERY_S = 2.0
_POLL_S = 0.1
_QUESTION, _ANSWER = "clock-question", "clock-answer"

_BODY = r"""
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID * 7 % 10000))
while (: < "/dev/tcp/$MASTER_ADDR/$MASTER_PORT") 2>/dev/null; do
    MASTER_PORT=$((MASTER_PORT + 1))
done
export MASTER_ADDR MASTER_PORT
# srun does not inherit it in all versions, and a process would get one core.
cpus=$((SLURM_CPUS_ON_NODE / SLURM_NTASKS_PER_NODE))
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-$((cpus > 0 ? cpus : 1))}
"""


@dataclass(kw_only=True)
class Report:
    """What one process found; None is what it did not come to."""

    node: str
    rank: int
    python: str
    mobilellama: str
    torch: str | None
    """Its version; None where it is not installed."""
    stage: str = ""
    """Where the process is, or ended."""
    error: str | None = None
    unseen: list[str] = field(default_factory=list)
    """Files of the others, by their names, that did not appear."""
    import_s: float | None = None
    gpus: int = 0
    gpu_name: str = ""
    rendezvous_s: float | None = None
    clock_s: float | None = None
    """This node's clock just after a barrier."""
    login_ahead_s: tuple[float, float] | None = None
    """The login node's clock less this one's: at least, at most."""
    all_reduce_s: dict[str, float] = field(default_factory=dict)
    """Seconds of an all-reduce by its MiB."""

    def write(self, folder: Path, stage: str) -> None:
        """Write FOLDER/rank-N.json at the beginning of a stage."""
        self.stage = stage
        write_json(folder / f"rank-{self.rank}.json", asdict(self))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the job went."""

    job: str
    last: slurm.JobState | None
    """What SLURM said of it last."""
    started_after_s: float | None
    """None: it did not start."""
    reports: list[Report]
    """By rank; of a process that did not come so far there is none."""
    log_tail: str


def torch_version() -> str | None:
    """Return the version of torch that is installed here, without importing it."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def wait_for_files(folder: Path, names: Collection[str], within_s: float) -> list[str]:
    """Wait until files are in a folder, and return those that did not appear."""
    end_s = time.monotonic() + within_s
    while True:
        # To open the folder makes NFS look; to ask for one name may be answered from memory.
        left = set(names).difference(os.listdir(folder))
        if not left or time.monotonic() > end_s:
            return sorted(left)
        time.sleep(_POLL_S)


# ---- on the nodes ------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Go through the stages and write this process's report."""
    folder_name, gpus = argv or sys.argv[1:]
    folder, place = Path(folder_name), Place.of_slurm()
    report = Report(
        node=place.node,
        rank=place.rank,
        python=platform.python_version(),
        mobilellama=mobilellama.__version__,
        torch=torch_version(),
    )

    def time_is_up() -> None:
        report.error = f"no end of it in {_NODES_S:.0f} s"
        report.write(folder, report.stage)
        os._exit(1)

    # A thread: a signal's handler would wait for the collective that hangs.
    watchdog = threading.Timer(_NODES_S, time_is_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        examine_node(place, folder, report, gpus=int(gpus))
        report.write(folder, DONE)
    except Exception as error:  # whatever a driver or a library throws
        print(f"{report.stage}: {error!r}", file=sys.stderr)
        kind = "" if isinstance(error, BadNodeError) else f"{type(error).__name__}: "
        report.error = kind + one_line(error)[:300]
        report.write(folder, report.stage)
    watchdog.cancel()
    return 0 if report.stage == DONE else 1


def examine_node(place: Place, folder: Path, report: Report, *, gpus: int) -> None:
    """Go through the stages, filling the report.

    Raises:
        Exception: what ended the stage that the report names.
    """
    report.write(folder, "shared folder")
    (folder / f"from-{place.rank}").touch()
    others = [f"from-{rank}" for rank in range(place.world_size)]
    report.unseen = wait_for_files(folder, [LOGIN_FILE, *others], _FILES_S)

    report.write(folder, "torch")
    started_s = time.monotonic()
    import torch
    import torch.distributed as dist

    report.import_s = time.monotonic() - started_s
    if gpus:
        report.write(folder, "GPUs")
        report.gpus = torch.cuda.device_count()
        if report.gpus < gpus:
            raise BadNodeError(f"torch sees {report.gpus} of {gpus} GPUs")
        report.gpu_name = torch.cuda.get_device_name(0)

    report.write(folder, "rendezvous")
    started_s = time.monotonic()
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    device = place.local_rank
    join(
        host, port, place.rank, place.world_size,
        gpus=gpus > 0, device=device, timeout_s=_JOIN_S,
    )  # fmt: skip
    dist.barrier()  # NCCL connects at the first collective
    report.rendezvous_s = time.monotonic() - started_s

    report.write(folder, "clocks")
    dist.barrier()
    if gpus:
        torch.cuda.synchronize()
    report.clock_s = time.time()
    if place.rank == 0:
        report.login_ahead_s = ask_login_clock(folder)

    report.write(folder, "all-reduce")
    for mib in _SIZES_MIB[gpus > 0] if place.world_size > 1 else ():
        seconds = time_all_reduce(device if gpus else None, mib=mib)
        report.all_reduce_s[str(mib)] = seconds
    dist.destroy_process_group()


def ask_login_clock(folder: Path) -> tuple[float, float] | None:
    """Return between what the login node's clock is ahead of this one; None if it is silent.

    It answers through the folder, so its moment lies between our question and our reading.
    """
    asked_s = time.time()
    write_json(folder / _QUESTION, asked_s)
    if wait_for_files(folder, [_ANSWER], _ANSWER_S):
        return None
    read_s = time.time()
    login_s = float(read_json(folder / _ANSWER))
    return login_s - read_s, login_s - asked_s


# ---- on the login node -------------------------------------------------------------------------


def run_job(config: SlurmConfig, folder: Path, *, nodes: int, wait_minutes: float) -> Outcome:
    """Submit the job, wait for its end, and cancel it in any case.

    Args:
        config: slurm's fields.
        folder: where it writes.
        nodes: how many.
        wait_minutes: how long it may wait for its start.

    Raises:
        UserError: SLURM refuses it.
    """
    path = folder / "doctor.sbatch"
    path.write_text(script(config, folder), encoding="utf-8")
    job = slurm.submit(str(path), *options(config, folder, nodes))
    try:
        last, started_after_s = _wait(job, folder, wait_s=60 * wait_minutes)
    finally:
        if slurm.is_active(job):
            slurm.cancel([job])
    if last and last.state == "COMPLETED":  # each has written, wherever that is
        ranks = range(nodes * (config.gpus_per_node or 1))
        wait_for_files(folder, [f"rank-{rank}.json" for rank in ranks], _SEEN_S)
    log_path = folder / "batch.log"
    lines = log_path.read_text(errors="replace").splitlines() if log_path.exists() else []
    return Outcome(
        job=job,
        last=last,
        started_after_s=started_after_s,
        reports=read_reports(folder),
        log_tail="; ".join(line.strip() for line in lines[-3:])[-500:],
    )


def script(config: SlurmConfig, folder: Path) -> str:
    """Return the batch script; how much it asks for is said on sbatch's command line."""
    words = ["srun", "--label", "--kill-on-bad-exit=0", "--wait=0"]
    words += [f"--cpu-bind={config.cpu_bind}"] if config.cpu_bind else []
    words += [config.srun_extra] if config.srun_extra else []
    python = config.python or sys.executable
    call = [python, "-m", "mobilellama.launch.doctor_job", str(folder), str(config.gpus_per_node)]
    code = shlex.quote(str(Path(mobilellama.__file__).parents[1]))
    lines = ["#!/bin/bash", *config.setup, "set -u"]
    lines += [f"export {name}={shlex.quote(str(value))}" for name, value in config.env.items()]
    lines += [f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1"]
    return "\n".join([*lines, f"{_BODY}{' '.join(words)} {shlex.join(call)}", ""])


def options(config: SlurmConfig, folder: Path, nodes: int) -> list[str]:
    """Return sbatch's options; with GPUs the nodes are had whole, as in training."""
    given = {
        "job-name": "mobilellama-doctor",
        "chdir": str(folder),
        "output": f"{str(folder).replace('%', '%%')}/batch.log",
        "time": str(_LIMIT_MINUTES),
        "nodes": str(nodes),
        "ntasks-per-node": str(config.gpus_per_node or 1),
        "gpus-per-node": str(config.gpus_per_node or ""),
        "cpus-per-task": str(config.cpus_per_task or ""),
        "mem": config.mem or ("0" if config.gpus_per_node else None),
        "partition": config.partition,
        "account": config.account,
        "exclude": config.exclude,
    }
    words = [f"--{name}={value}" for name, value in given.items() if value]
    words += ["--exclusive"] if config.gpus_per_node else []
    return [*words, "--no-requeue", *shlex.split(config.extra)]


def _wait(job: str, folder: Path, *, wait_s: float) -> tuple[slurm.JobState | None, float | None]:
    """Wait until a job is over, or it is time to cancel it.

    Returns:
        What SLURM said of it last, and after how many seconds it started, if it did.
    """
    submitted_s = time.monotonic()
    started_s = error_s = told = last = None
    while True:
        found = next(iter(slurm.states(job)), None)
        reports = read_reports(folder)
        now_s = time.monotonic()
        if found and told != (told := f"{found.state} {found.reason}".strip()):
            log.info("job %s: %s", job, told)
        last = found or last
        if reports or (found and found.state not in ("PENDING", "CANCELLED")):
            started_s = started_s or now_s
        if error_s is None and any(report.error for report in reports):
            error_s = now_s  # the others may wait for that process
        if (
            found is None
            or not found.is_active
            or (started_s is None and now_s - submitted_s > wait_s)
            or (started_s and now_s - started_s > 60 * _LIMIT_MINUTES + 60)
            or (error_s and now_s - error_s > _AFTER_ERROR_S)
        ):
            return last, started_s and started_s - submitted_s
        while time.monotonic() < now_s + _ASK_EVERY_S:
            answer_clock(folder)
            time.sleep(_POLL_S)


def answer_clock(folder: Path) -> None:
    """Tell the node that asks for it this clock's time."""
    names = os.listdir(folder)
    if _QUESTION in names and _ANSWER not in names:
        write_json(folder / _ANSWER, time.time())


def read_reports(folder: Path) -> list[Report]:
    """Return what the processes have written so far, by rank."""
    found = []
    for path in folder.glob("rank-*.json"):
        with contextlib.suppress(OSError):  # NFS: replaced by its writer just now
            found.append(Report(**read_json(path)))
    return sorted(found, key=lambda report: report.rank)


if __name__ == "__main__":
    sys.exit(main())
