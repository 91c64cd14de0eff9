"""Decide how many CPUs this process may use.

Every default number of threads and worker processes comes from here. The first known value of this
list decides:

1. the field that the user gave;
2. OMP_NUM_THREADS: what one process may use. It does not count if torchrun set it, which gives 1
   to each of several processes of a node unless the user has set another number;
3. the smallest of SLURM's CPUs, the CPU quota of the control group (of a container), and the CPUs
   that this process may run on. Processes on the same CPUs get equal parts.
"""

import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mobilellama.log import number_from_environment
from mobilellama.progress import format_count

log = logging.getLogger(__name__)

TORCHRUN_MARK = "TORCHELASTIC_RUN_ID"
"""Variable that torchrun sets for each process that it starts."""


@dataclass(frozen=True, kw_only=True)
class CpuBudget:
    """A number of CPUs and where it comes from."""

    count: int
    """At least 1."""
    reason: str
    """What decided the number, such as "OMP_NUM_THREADS"."""

    def describe(self, what: str) -> str:
        """Return the text for a start line, such as "4 CPU threads (OMP_NUM_THREADS)".

        Args:
            what: what is counted, in the singular.
        """
        return f"{format_count(self.count, what)} ({self.reason})"


def cpu_budget(
    given: int | None = None, *, field: str = "workers", processes: int = 1
) -> CpuBudget:
    """Return how many threads or workers a process may have.

    Args:
        given: the number that the user gave. None: the default.
        field: the field that the user gave it with.
        processes: number of processes that share this machine's CPUs, this one included.
    """
    if given is not None:
        return CpuBudget(count=given, reason=field)
    by_torchrun = False
    if omp := _omp_threads(os.environ):
        by_torchrun = is_set_by_torchrun("OMP_NUM_THREADS")
        if not by_torchrun:
            return CpuBudget(count=omp, reason="OMP_NUM_THREADS")
        # Work of one rank that asks for workers has a rank's part too.
        processes = max(processes, number_from_environment("LOCAL_WORLD_SIZE") or 1)
    cpus = float(len(os.sched_getaffinity(0)))
    limits = [(cpus, "the CPUs that this process may use")]
    if (quota := cgroup_quota()) is not None:
        limits.insert(0, (quota, "the CPU quota of its control group"))
    name, slurm = _slurm_cpus(os.environ)
    if name == "SLURM_CPUS_PER_TASK":
        # This is one task's share already. Whether the other limits are a task's is not known.
        limits.insert(0, (slurm, name))
        processes = 1
    elif name:
        limits.insert(0, (slurm, name))
    count, reason = min(limits, key=lambda limit: limit[0])
    if processes > 1:
        reason += f", shared by {processes:,} processes"
    if by_torchrun:
        reason += f"; OMP_NUM_THREADS={omp} is torchrun's own"
    return CpuBudget(count=max(1, int(count // processes)), reason=reason)


def use_cpu_budget() -> None:
    """Lower torch's number of CPU threads to the budget, and log a change.

    torch knows OMP_NUM_THREADS and the CPUs that it may run on. It does not know SLURM's CPUs or a
    CPU quota.
    """
    import torch

    budget = cpu_budget()
    if budget.count < torch.get_num_threads():
        torch.set_num_threads(budget.count)
        log.info("%s", budget.describe("CPU thread"))


def _omp_threads(environment: Mapping[str, str]) -> int | None:
    """Return OMP_NUM_THREADS. None: it is not set, or OpenMP does not take its value."""
    first = environment.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list by level
    return int(first) if first.isdecimal() and int(first) > 0 else None


def is_set_by_torchrun(name: str, process: Path = Path("/proc/self")) -> bool:
    """Return whether torchrun, and not the user, gave this process an environment variable.

    The environment with which torchrun itself was started tells it: a variable that torchrun adds
    later is not in it. torchrun is the nearest process above whose environment has no
    TORCHELASTIC_RUN_ID. A process that cannot be read counts as the user's.

    Args:
        name: the variable.
        process: this process's folder in /proc.
    """
    environment = _first_environment(process)
    while environment is not None and TORCHRUN_MARK in environment:
        process = process.parent / str(_parent(process))
        environment = _first_environment(process)
        if environment is not None and TORCHRUN_MARK not in environment:
            return name not in environment
    return False


def _first_environment(process: Path) -> set[str] | None:
    """Return the variables with which a process was started. None: they cannot be read."""
    try:
        pairs = (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    names = {os.fsdecode(pair.partition(b"=")[0]) for pair in pairs if b"=" in pair}
    return names or None  # a program may overwrite the place in memory that the kernel shows


def _parent(process: Path) -> int:
    """Return the number of a process's parent; 0 if there is none."""
    try:
        status = (process / "stat").read_text(errors="replace")
    except OSError:
        return 0
    return int(status.rpartition(")")[2].split()[1])  # "PID (NAME) STATE PARENT ..."


def _slurm_cpus(environment: Mapping[str, str]) -> tuple[str | None, float]:
    """Return the variable in which SLURM says how many CPUs there are, and its value."""
    # The processes of torchrun share the CPUs of one task: srun's, or the batch script's.
    of_a_task = "SLURM_PROCID" in environment and "LOCAL_WORLD_SIZE" not in environment
    for name in (*(["SLURM_CPUS_PER_TASK"] if of_a_task else []), "SLURM_CPUS_ON_NODE"):
        value = environment.get(name, "")
        if value.isdecimal() and int(value) > 0:
            return name, float(value)
    return None, math.inf


def cgroup_quota(
    mounts: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> float | None:
    """Return how many CPUs the control group may use at a time. None: it has no limit.

    Args:
        mounts: where the control groups are mounted. Version 1 has a folder for each controller.
        membership: a file with lines of ``ID:CONTROLLERS:PATH``. The line of version 2 has no
            controllers.
    """
    try:
        lines = membership.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for line in lines:
        if line.count(":") < 2:
            continue  # some sandboxes write no such lines
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if not controllers:
            for folder in _up_to(mounts, path):
                quotas += _quota(folder / "cpu.max")
        elif "cpu" in names:
            for mount in (mounts / controllers, mounts / "cpu"):
                for folder in _up_to(mount, path):
                    quotas += _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
    return min(quotas, default=None)


def _up_to(mount: Path, path: str) -> Iterator[Path]:
    """Yield a group's folder and the folders above it. Each may have a limit.

    In a container the path may be a path of the host. Then only the mount itself exists.
    """
    folder = mount / path.strip("/")
    yield folder
    while folder != mount:
        folder = folder.parent
        yield folder


def _quota(*files: Path) -> list[float]:
    """Return [quota / period] of a group; [] if it has no limit ("max", -1) or does not exist."""
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        return [int(quota) / int(period)] if int(quota) > 0 else []
    except (OSError, ValueError, ZeroDivisionError):
        return []
