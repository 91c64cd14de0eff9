"""The doctor's questions that need no job: commands, partitions, and the site's rules."""

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mobilellama.config import UserError, did_you_mean
from mobilellama.launch import slurm
from mobilellama.launch.config import SlurmConfig
from mobilellama.launch.doctor.row import Row
from mobilellama.launch.time_limit import limit_seconds
from mobilellama.progress import format_count

_COMMANDS = ("sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
_SINFO = "%P|%a|%l|%F|%G"
"""Name, state, limit, nodes as allocated/idle/other/all, generic resources."""
_CRED_EXPIRE_S = 120  # SLURM's default


def commands_row() -> Row:
    """Return whether SLURM's commands are here; sacct alone may be missing."""
    missing = [name for name in _COMMANDS if shutil.which(name) is None]
    try:
        slurm.require_commands(*_COMMANDS)
    except UserError as error:
        remedy = str(error).partition(". ")[2]
        return Row("bad", "commands", f"{', '.join(missing)}: not found", remedy)
    extra = "sacct too" if shutil.which("sacct") else "no sacct"
    return Row("ok", "commands", f"{' '.join(_COMMANDS)}; {extra}")


# ---- partitions --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Partition:
    """What sinfo says of a partition."""

    name: str
    is_default: bool
    state: str
    limit: str
    """Its time limit, or infinite."""
    idle: int
    """Nodes that nobody uses."""
    nodes_by_gpus: dict[int, int]
    """How many nodes have so many GPUs."""

    @property
    def nodes(self) -> int:
        """How many it has."""
        return sum(self.nodes_by_gpus.values())

    def nodes_with(self, gpus: int) -> int:
        """Return how many nodes have so many GPUs or more."""
        return sum(n for has, n in self.nodes_by_gpus.items() if has >= gpus)

    def __str__(self) -> str:
        limit = "no time limit" if self.limit == "infinite" else f"time limit {self.limit}"
        kinds = [
            f"{n} with {format_count(gpus, 'GPU')}"
            for gpus, n in sorted(self.nodes_by_gpus.items())
        ]
        return f"{self.state}, {limit}, nodes: {', '.join(kinds)}, {self.idle} idle"


def parse_partitions(text: str) -> dict[str, Partition]:
    """Return the partitions that 'sinfo -h -o _SINFO' lists, a line for each kind of node."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        name, state, limit, counts, resources = line.strip().split("|")
        is_default, name = name.endswith("*"), name.removesuffix("*")
        before = found.get(name)
        by_gpus = dict(before.nodes_by_gpus) if before else {}
        _, idle, _, nodes = map(int, counts.split("/"))
        gpus = gpus_of(resources)
        by_gpus[gpus] = by_gpus.get(gpus, 0) + nodes
        found[name] = Partition(
            name=name,
            is_default=is_default,
            state=state,
            limit=limit,
            idle=idle + (before.idle if before else 0),
            nodes_by_gpus=by_gpus,
        )
    return found


def gpus_of(resources: str) -> int:
    """Return the GPUs among a node's generic resources, as ``gpu:a100:4(S:0-1),nvme:1``."""
    items = [item.partition("(")[0].split(":") for item in resources.split(",")]
    counts = [item[-1] for item in items if item[0] == "gpu"]
    return sum(int(count) if count.isdigit() else 1 for count in counts)


def ask_partitions(config: SlurmConfig) -> dict[str, Partition]:
    """Return the partitions that this user may use, and hidden ones that the fields name."""
    found = parse_partitions(slurm.call("sinfo", "-h", "-o", _SINFO).stdout)
    for name in asked_for(config):
        text = slurm.call("sinfo", "-h", "-p", name, "-o", _SINFO).stdout
        found |= {name: one for name, one in parse_partitions(text).items() if name not in found}
    return found


def asked_for(config: SlurmConfig) -> dict[str, str]:
    """Return the partitions that the fields name, and the field of each."""
    named: dict[str, str] = {}
    for name in ("partition", "cpu_partition"):
        for one in (getattr(config, name) or "").split(","):
            if one:
                named.setdefault(one, f"slurm.{name}")
    return named


def used_for_training(partitions: Mapping[str, Partition], config: SlurmConfig) -> list[Partition]:
    """Return the partitions in which a training job may run: those named, else the default."""
    if config.partition:
        return [partitions[n] for n in config.partition.split(",") if n in partitions]
    return [one for one in partitions.values() if one.is_default]


def partition_rows(partitions: Mapping[str, Partition], config: SlurmConfig) -> Iterator[Row]:
    """Yield a row for each partition, and one for each that the fields name and is not there."""
    asked, trains = asked_for(config), used_for_training(partitions, config)
    for name, one in partitions.items():
        words = ["the default" if one.is_default else "", asked.get(name, ""), str(one)]
        found = ", ".join(filter(None, words))
        if one in trains or name in asked:
            yield judge_partition(one, config, found, trains=one in trains)
        else:
            yield Row("ok", f"partition {name}", found)
    for name, field in asked.items():
        if name not in partitions:
            remedy = f"Give one of {', '.join(partitions)}{did_you_mean(name, partitions)}"
            yield Row("bad", f"partition {name}", f"{field}: no partition has this name", remedy)
    if not config.partition and not trains:
        remedy = f"Give --slurm.partition, one of {', '.join(partitions)}"
        yield Row("bad", "partition", "none is given, and the cluster has no default", remedy)


def judge_partition(partition: Partition, config: SlurmConfig, found: str, *, trains: bool) -> Row:
    """Return the row of a partition that is to be used.

    Args:
        partition: what sinfo says of it.
        config: what is asked of it.
        found: the row's text.
        trains: whether training runs there; else only stages that use no GPU.
    """
    name, gpus = f"partition {partition.name}", config.gpus_per_node
    if partition.state != "up":
        return Row("bad", name, f"{found}: no job starts in it", "Give another partition")
    if trains and (has := partition.nodes_with(gpus)) < config.nodes:
        found += f": {has} with slurm.gpus_per_node = {gpus}, below slurm.nodes = {config.nodes}"
        return Row("bad", name, found, "Give less, or another --slurm.partition")
    limit_s = limit_seconds(partition.limit)
    if limit_s is not None and limit_s < (limit_seconds(str(config.time)) or 0):
        found += f": below slurm.time = {config.time}"
        remedy = f"Give --slurm.time {partition.limit} or less: a run is requeued and goes on"
        return Row("warning", name, found, remedy)
    return Row("ok", name, found)


# ---- the site's rules --------------------------------------------------------------------------


def parse_site(text: str) -> dict[str, str]:
    """Return the ``Name = value`` lines of 'scontrol show config'; the first of a name counts."""
    found: dict[str, str] = {}
    for name, value in re.findall(r"^(\S+) +=[ \t]*(.*)$", text, re.MULTILINE):
        found.setdefault(name, value.strip())
    return found


def site_rows(site: Mapping[str, str]) -> Iterator[Row]:
    """Yield what the site's rules mean for jobs that are requeued."""
    yield requeue_row(site)
    expire = re.search(r"cred_expire=(\d+)", site.get("AuthInfo", ""))
    again_s = int(expire[1]) if expire else _CRED_EXPIRE_S
    found = f"{again_s} s after a requeue at the earliest (AuthInfo cred_expire)"
    yield Row("ok", "restart", f"{found}; KILL comes {site.get('KillWait')} after TERM (KillWait)")
    mode, kind = site.get("PreemptMode", "OFF"), site.get("PreemptType", "preempt/none")
    if "CANCEL" in mode.upper():
        found = f"a preempted job is cancelled, not requeued (PreemptMode {mode}, {kind})"
        remedy = "Launch such a run again, or use a partition or QOS that nobody preempts"
        yield Row("warning", "preemption", found, remedy)
    else:
        yield Row("ok", "preemption", f"PreemptMode {mode}, {kind}")
    yield accounting_row(site)


def requeue_row(site: Mapping[str, str]) -> Row:
    """Return whether jobs are requeued."""
    if site.get("JobRequeue") != "0":
        return Row("ok", "requeue", f"jobs may be requeued (JobRequeue {site.get('JobRequeue')})")
    found = "only jobs that ask for it are requeued (JobRequeue 0)"
    remedy = "Nothing, if the site allows it: job scripts ask, and submit themselves where it fails"
    return Row("warning", "requeue", found, remedy)


def accounting_row(site: Mapping[str, str]) -> Row:
    """Return how long ended jobs are known."""
    storage, age = site.get("AccountingStorageType", ""), site.get("MinJobAge", "?")
    if storage in ("", "(null)", "accounting_storage/none"):
        return Row("ok", "accounting", f"none: ended jobs are known for {age} (MinJobAge)")
    if shutil.which("sacct") is None:
        found = f"{storage}, but no sacct here: ended jobs are known for {age} (MinJobAge)"
        return Row("warning", "accounting", found, "Use a login node that has sacct")
    return Row("ok", "accounting", storage)
