"""The doctor's job: its script, and the wait for it on the login node.

``run_job`` submits the script, says what becomes of it in the queue, and cancels it where it does
not start or end in time.
"""

import logging
import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import mobilellama
from mobilellama.files.atomic import write_json
from mobilellama.launch import slurm
from mobilellama.launch.config import SlurmConfig
from mobilellama.launch.doctor.report import ANSWER, QUESTION, Report, read_reports, wait_for_files

log = logging.getLogger(__name__)

_SEEN_S = 15.0
_LIMIT_MINUTES = 6
_AFTER_ERROR_S = 10.0
_ASK_EVERY_S = 2.0
_POLL_S = 0.1

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
    call = [python, "-m", "mobilellama.launch.doctor.node", str(folder), str(config.gpus_per_node)]
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
    if QUESTION in names and ANSWER not in names:
        write_json(folder / ANSWER, time.time())
