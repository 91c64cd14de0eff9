"""The configuration of the test cluster: its options and the files written from them.

Slurm 22.05's keys (Debian 12). Lines that are not obvious give their reason.
"""

import os
import pwd
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.launch.helpers.processes import ClusterError

Mode = Literal["ns", "net", "flat"]
ProcTrack = Literal["cgroup", "linuxproc"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a test may choose of its cluster."""

    nodes: int = 2
    gpus: int = 8
    """Pretended GPUs per node; 0 for none."""
    gpu_type: str = ""
    """Such as h100, for `--gpus-per-node=h100:8`; empty for GPUs without a type."""
    cpus: int = 64
    """CPUs per node, whatever the machine has."""
    mem_mb: int = 1_000_000
    """Memory per node in MB, whatever the machine has."""
    mode: Mode | None = None
    """How nodes are told apart, see cluster.py; None takes ns where it can be had, else flat."""
    proctrack: ProcTrack | None = None
    """Who in a step gets signals. cgroup, as in production: only the direct task, not its children.
    linuxproc: the whole tree. None takes cgroup where it can be had."""
    slurmd_timeout: int = 10
    """Seconds without an answer after which a node is down, or up to three times as long."""
    kill_wait: int = 5
    """Seconds between SIGTERM and SIGKILL."""
    cred_expire: int = 5
    """Seconds that a requeued job waits before it may start again."""
    grace: int = 10
    """Seconds between the warning of a preempted job and its SIGTERM."""
    preempt_signal: bool = True
    """Whether a preempted job is warned by the signal that it asked for by `--signal`."""
    extra_conf: str = ""
    """More lines for slurm.conf, such as partitions."""

    def __post_init__(self) -> None:
        if self.cred_expire < 5:
            raise ClusterError(
                f"cred_expire {self.cred_expire} is under 5 s, where Slurm silently takes its"
                " default of 120 s: use 5 or more"
            )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where everything of one cluster is."""

    options: Options
    folder: Path
    mode: Mode
    proctrack: ProcTrack
    subnet: tuple[int, int]
    """The second and third number of all addresses."""
    ports: list[int]
    """The controller's and each node's."""

    @property
    def conf(self) -> Path:
        """The cluster's slurm.conf."""
        return self.folder / "slurm.conf"

    @property
    def cgroup(self) -> str:
        """What the nodes' cgroups are named by; each adds "-" and its name."""
        return self.folder.name

    @property
    def munge_socket(self) -> Path:
        """Where the cluster's munged listens."""
        return self.folder / "munge.sock"

    @property
    def hosts(self) -> Path:
        """The nodes' /etc/hosts."""
        return self.folder / "hosts"

    @property
    def names(self) -> list[str]:
        """The nodes' names."""
        places = range(1, self.options.nodes + 1)
        # Without privileges nobody can teach the machine new host names, but a node may be
        # *called* by a loopback address, so that MASTER_ADDR resolves.
        return [self.address(place) if self.mode == "flat" else f"node{place}" for place in places]

    def address(self, place: int) -> str:
        """Return the address of the controller (0) or of a node (from 1)."""
        second, third = self.subnet
        if self.mode == "net":
            return f"10.{second}.{third}.{1 + place}"
        return f"127.{second}.{third}.{1 + place}" if place else "127.0.0.1"


def write_files(layout: Layout) -> None:
    """Write all that the daemons of a cluster read."""
    folder = layout.folder
    folder.chmod(0o755)
    spools = [f"spool/{name}" for name in layout.names]
    for name in ("state", "spool", "log", "run", "dev", *spools):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    layout.conf.write_text(_slurm_conf(layout))
    names = {layout.address(place): name for place, name in enumerate(layout.names, start=1)}
    hosts = {layout.address(0): _host_name(), **names}
    layout.hosts.write_text(
        "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for address, name in hosts.items())
    )
    if layout.options.gpus:
        # Slurm wants a character device behind each GPU: a bare Count= is dropped ("Removing
        # file-less GPU", the node goes INVAL), plain files leave CUDA_VISIBLE_DEVICES empty. A
        # symlink to any device will do, and needs no privilege.
        for gpu in range(layout.options.gpus):
            (folder / f"dev/nvidia{gpu}").symlink_to("/dev/null")
        (folder / "gres.conf").write_text(_gres_conf(layout))
    if layout.proctrack == "cgroup":
        (folder / "cgroup.conf").write_text(_cgroup_conf(layout))


def _host_name() -> str:
    return socket.gethostname().split(".")[0]


def _user_name() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name  # not $USER, which may be somebody else's


def _gres_conf(layout: Layout) -> str:
    options = layout.options
    gpu_type = f"Type={options.gpu_type} " if options.gpu_type else ""
    numbers = f"[0-{options.gpus - 1}]" if options.gpus > 1 else "0"
    return f"AutoDetect=off\nName=gpu {gpu_type}File={layout.folder}/dev/nvidia{numbers}\n"


def _cgroup_conf(layout: Layout) -> str:
    # Each node mounts its own corner of the freezer hierarchy there: /sys/fs/cgroup stays alone.
    return (
        f"CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nCgroupMountpoint={layout.folder}/cg\n"
        "ConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices=no\n"
    )


def _node_line(layout: Layout, place: int) -> str:
    options, name = layout.options, layout.names[place - 1]
    gpu = f"gpu:{options.gpu_type}" if options.gpu_type else "gpu"
    words = [
        f"NodeName={name}",
        f"NodeHostname={_host_name() if layout.mode == 'flat' else name}",
        f"NodeAddr={layout.address(place)} Port={layout.ports[place]}",
        f"CPUs={options.cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={options.cpus}",
        f"ThreadsPerCore=1 RealMemory={options.mem_mb}",
        f"Gres={gpu}:{options.gpus}" if options.gpus else "",
        "State=UNKNOWN",
    ]
    return " ".join(word for word in words if word)


def _slurm_conf(layout: Layout) -> str:
    options, folder = layout.options, layout.folder
    lines = [_node_line(layout, place) for place in range(1, options.nodes + 1)]
    if options.gpus:
        lines.insert(0, "GresTypes=gpu")
    if options.preempt_signal:
        lines.insert(0, "SlurmctldParameters=preempt_send_user_signal")
    nodes = "\n".join(lines)
    return f"""\
ClusterName=testing
SlurmctldHost={_host_name()}({layout.address(0)})
SlurmctldPort={layout.ports[0]}
SlurmUser={_user_name()}
SlurmdUser={_user_name()}
AuthType=auth/munge
# cred_expire is also how long a requeued job waits before it may start again (default 120 s).
AuthInfo=socket={layout.munge_socket},cred_expire={options.cred_expire}

StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
# scontrol shows an ended job for so many seconds; without accounting nothing else does.
MinJobAge=3600

MpiDefault=none
ProctrackType=proctrack/{layout.proctrack}
# There are no cores to bind to: nodes claim more than the machine has, by config_overrides.
TaskPlugin=task/none
SlurmdParameters=config_overrides

SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# Else each job takes a whole node's memory, and none runs beside it.
DefMemPerCPU=1024
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0,sched_min_interval=0,bf_continue

# 2: a node that comes back registers itself as usable, whatever took it down.
ReturnToService=2
SlurmdTimeout={options.slurmd_timeout}
BatchStartTimeout=10
KillWait={options.kill_wait}
MessageTimeout=10
TCPTimeout=2
UnkillableStepTimeout=30

JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 State=UP PriorityTier=10 \
PreemptMode=REQUEUE GraceTime={options.grace}
PartitionName=urgent Nodes=ALL MaxTime=INFINITE DefaultTime=60 State=UP PriorityTier=100 \
PreemptMode=OFF
{options.extra_conf}
"""
