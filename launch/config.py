"""Fields of a SLURM job, and the site's defaults for them.

A site file (~/.config/mobilellama/slurm.yaml, or --slurm.config FILE) holds the same fields:

    slurm:
      partition: gpu
      cpu_partition: cpu
      account: my-project
      gpus_per_node: 8
      setup:
        - module load cuda/12.8
      env:
        NCCL_SOCKET_IFNAME: ib0
      scratch: /local/scratch
"""

import json
import os
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mobilellama.commandline.parser import parse_config
from mobilellama.config import ConfigError, require_at_least
from mobilellama.launch.time_limit import limit_seconds

_FIRST = (
    "dry_run", "local", "check", "slurm.nodes", "slurm.gpus_per_node", "slurm.time",
    "slurm.partition", "slurm.account", "slurm.setup", "slurm.env",
)  # fmt: skip
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """Where and how a stage runs."""

    nodes: int = 1
    """Number of nodes of a training job."""
    gpus_per_node: int = 8
    """GPUs of each node, with one process for each GPU. 0 trains on CPUs, with tasks_per_node
    processes on each node. A stage that uses no GPU requests none."""
    tasks_per_node: int | None = None
    """Processes on each node. None: one for each GPU."""
    cpus_per_task: int | None = None
    """CPU cores of each process. None: in training, an equal part of the node's cores; else 4."""
    mem: str | None = None
    """Memory of each node, such as 64G. None: all in training, else the partition's default."""
    time: str | int = "24:00:00"
    """Time limit: "90" (minutes), "24:00:00", "2-00:00:00". A run saves before it, and the job is
    requeued."""
    partition: str | None = None
    """Partition. None: the cluster's default."""
    cpu_partition: str | None = None
    """Partition of stages that use no GPU. None: the same as 'partition'."""
    account: str | int | None = None
    """Account to charge."""
    job_name: str | None = None
    """Name in the queue. None: the name of the run's folder. Each of your jobs needs its own."""
    exclude: str | None = None
    """Nodes not to use, such as node7,node[12-14]."""
    extra: str = ""
    """Further options of sbatch, such as "--qos=high --reservation=r"."""
    srun_extra: str = ""
    """Further options of srun, such as "--container-image=IMAGE --container-mounts=/data"."""
    setup: list[str] = field(default_factory=list, metadata={"commas": False})
    """Shell lines at the start of the job script, such as "module load cuda" or "source env.sh"."""
    env: dict[str, object] = field(default_factory=dict)
    """Environment variables, such as NCCL_SOCKET_IFNAME. A value is a text or a number."""
    python: str | None = None
    """Python of the job. None: the Python that runs this command."""
    cpu_bind: str | None = "cores"
    """How srun binds processes to CPUs. None: the site decides."""
    scratch: str = "/tmp"
    """Folder on each node's own disk, for temporary files."""
    min_scratch_gib: float = 1.0
    """A node is bad if 'scratch' has less free space, in GiB."""
    max_gpu_used_mib: int = 1024
    """A node is bad if other processes use more memory on one of its GPUs, in MiB."""
    tasks: int = 16
    """Number of tasks of the job array that tokenises. A cluster takes up to its MaxArraySize,
    1001 unless the site sets it."""
    max_running: int | None = None
    """How many of these tasks run at the same time. None: no limit."""
    warn_s: int = 300
    """A run is asked to save at least so many seconds before the time limit."""
    health: Literal["none", "node", "full"] = "full"
    """How nodes are checked before each start. node checks the GPUs and scratch. full also times an
    all-reduce over all processes. A bad node is excluded, and the job is requeued."""
    health_s: int = 300
    """The most seconds that this check may take."""
    hang_minutes: float = 30.0
    """A run is ended and requeued if it writes no log line, metric or checkpoint for so long."""
    max_failures: int = 3
    """A job gives up after so many failures without a new checkpoint between them."""
    max_restarts: int = 200
    """A job gives up after so many requeues, for any reason."""

    def __post_init__(self) -> None:
        for name in ("nodes", "tasks", "warn_s", "health_s", "max_failures"):
            require_at_least(f"slurm.{name}", getattr(self, name), 1)
        for name in ("gpus_per_node", "min_scratch_gib", "max_gpu_used_mib", "max_restarts"):
            require_at_least(f"slurm.{name}", getattr(self, name), 0)
        for name in ("tasks_per_node", "cpus_per_task", "max_running"):
            if getattr(self, name) is not None:
                require_at_least(f"slurm.{name}", getattr(self, name), 1)
        if not 0 < self.hang_minutes < 1e6:
            rule = "must be a number above 0"
            raise ConfigError("slurm.hang_minutes", self.hang_minutes, rule, "Give minutes")
        if self.gpus_per_node == 0 and self.tasks_per_node is None:
            rule = "must be given if slurm.gpus_per_node is 0"
            remedy = "Give the number of processes on each node"
            raise ConfigError("slurm.tasks_per_node", None, rule, remedy)
        self._require_time()
        for name, value in self.env.items():
            if not _VARIABLE.fullmatch(str(name)):
                rule = "is not a name for an environment variable"
                raise ConfigError("slurm.env", f"{name}: {value}", rule, "Fix the name")
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                rule = "must be a text or a number"
                raise ConfigError(f"slurm.env.{name}", value, rule, "Put it in quotes")
        for name in ("extra", "srun_extra", "partition", "cpu_partition", "account", "job_name",
                     "exclude", "mem", "cpu_bind", "scratch", "python"):  # fmt: skip
            if not (text := str(getattr(self, name) or "")).isprintable():
                remedy = "Write it in one line of printable characters"
                rule = "has a character that a line of a script cannot hold"
                raise ConfigError(f"slurm.{name}", repr(text), rule, remedy)
        for name in ("partition", "cpu_partition", "account", "job_name", "exclude"):
            if '"' in str(getattr(self, name) or ""):
                rule, remedy = "holds a quotation mark", "Remove it"
                raise ConfigError(f"slurm.{name}", getattr(self, name), rule, remedy)
        for name in ("extra", "srun_extra"):
            try:
                shlex.split(getattr(self, name))
            except ValueError:
                rule, remedy = "has a quotation mark that is not closed", "Close it"
                raise ConfigError(f"slurm.{name}", getattr(self, name), rule, remedy) from None
        if self.partition is not None and not self.partition.strip(", "):
            rule, remedy = "names no partition", "See 'mobilellama launch doctor'"
            raise ConfigError("slurm.partition", self.partition, rule, remedy)
        if not self.scratch.startswith("/"):
            remedy = "Give a path that begins with /"
            rule = "is not an absolute path"
            raise ConfigError("slurm.scratch", self.scratch, rule, remedy)

    def _require_time(self) -> None:
        if isinstance(self.time, int):
            rule = (
                "is a number. YAML reads 24:00:00 as seconds, but SLURM reads a number as minutes"
            )
            raise ConfigError("slurm.time", self.time, rule, "Put it in quotes")
        limit_s = limit_seconds(self.time)
        if limit_s is None:
            rule = "is not a time limit that SLURM reads"
            remedy = "Give minutes, HH:MM:SS, D-HH or D-HH:MM:SS"
            raise ConfigError("slurm.time", self.time, rule, remedy)
        if limit_s <= self.warn_s:
            rule = f"must be above slurm.warn_s = {self.warn_s} s, the time for saving"
            raise ConfigError("slurm.time", self.time, rule, "Raise it, or lower slurm.warn_s")

    @property
    def processes_per_node(self) -> int:
        """Processes of training on each node."""
        return self.tasks_per_node or self.gpus_per_node

    @property
    def stop_within_s(self) -> int:
        """Seconds after the warning at which a run that has not stopped is ended.

        The rest of the time before the limit is for the requeue.
        """
        return max(self.warn_s - 30, self.warn_s // 2)


@dataclass(frozen=True, kw_only=True)
class HowConfig:
    """How something is launched."""

    dry_run: bool = False
    """Print the job script and submit nothing."""
    check: bool = True
    """Read the stage's config before submitting, as --print_config does. Also --no-check."""
    local: bool = False
    """Run on this machine under torchrun, not in SLURM. Start again after a crash."""
    processes: int | None = None
    """With --local: number of processes. None: one for each GPU; without GPUs, the stage's own."""

    def __post_init__(self) -> None:
        if self.processes is not None:
            require_at_least("processes", self.processes, 1)


@dataclass(frozen=True, kw_only=True)
class Options(HowConfig):
    """Fields of 'mobilellama launch STEP' besides the stage's own fields."""

    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """Where and how it runs. --slurm.config FILE gives a site's file of these fields."""


def site_file() -> Path:
    """Return the path of the user's file of site defaults."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "mobilellama" / "slurm.yaml"


_SBATCH = {name: name for name in ("nodes", "gpus_per_node", "cpus_per_task", "mem", "time")}
_SBATCH |= {name: name for name in ("partition", "account", "job_name", "exclude")}
_SBATCH |= {"ntasks_per_node": "tasks_per_node", "array": "tasks", "qos": "extra"}
"""Options of sbatch, with underscores -> our fields of ``slurm``. No step has such fields."""


def split_options(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the launcher's options and the stage's arguments.

    ``--dry-run`` and ``--no-check`` are replaced by their fields.
    """
    own = {"--dry_run", "--check", "--local", "--processes", "--print_config", "--help", "-h"}
    short = {"--no_check": "--check=false"}
    mine: list[str] = []
    theirs: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        flag, inline, value = word.partition("=")
        plain = flag.replace("-", "_").replace("__", "--", 1)  # as in every flag
        word = short.get(plain, plain + inline + value if plain in own else word)
        flag, inline, _ = word.partition("=")
        if flag.startswith("--slurm"):
            # The next word is the value, even with a dash: --slurm.extra "--qos=high".
            if not inline and words and _is_own(words[0], own, short):
                rule = "has no value: another option of 'launch' follows it"
                remedy = f"Is a shell variable unset? If this is the value, write {flag}=VALUE"
                raise ConfigError(flag, words[0], rule, remedy)
            mine.append(word if inline or not words else f"{word}={words.pop(0)}")
            while flag == "--slurm.setup" and words and not words[0].startswith("-"):
                mine.append(f"{flag}={words.pop(0)}")  # further lines
            continue
        if flag not in own:
            if ours := _SBATCH.get(plain.removeprefix("--") if word.startswith("--") else ""):
                shown = value if inline else next(iter(words), "(no value)")
                raise ConfigError(flag, shown, "is an option of sbatch", f"Give --slurm.{ours}")
            theirs.append(word)
            continue
        mine.append(word)
        if not inline and words and _is_value(words[0], flag):
            mine.append(words.pop(0))
    return mine, theirs


def _is_value(word: str, flag: str) -> bool:
    """Return whether a word is the value of the launcher's flag before it.

    Any other word is the stage's, such as RUN in '--dry-run RUN'.
    """
    if flag == "--processes":
        return not word.startswith("-")
    if flag in ("--help", "-h"):
        return word == "all"
    return word.lower() in ("true", "false")


def _is_own(word: str, own: Collection[str], short: Collection[str]) -> bool:
    plain = word.replace("-", "_").replace("__", "--", 1)
    return plain in own or plain in short or word.startswith("--slurm.")


def read_options(argv: Sequence[str], *, prog: str, about: str) -> Options:
    """Return the launcher's options. `argv` overrides the site's file, which overrides defaults.

    Raises:
        ConfigError: a field is unknown or breaks a rule, or the site's file is missing.
    """
    files, rest = take_site_file(argv)
    return parse_config(Options, [*files, *rest], prog=prog, about=about, first=_FIRST)


def take_site_file(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return ``--config FILE`` for the site's file, if there is one, and the other arguments."""
    named, rest = None, []
    words = iter(argv)
    for word in words:
        flag, inline, value = word.partition("=")
        if flag == "--slurm.config":
            named = value if inline else next(words, "")
        else:
            rest.append(word)
    if named is None and not os.path.lexists(site_file()):
        return [], rest
    path = Path(named) if named is not None else site_file()
    if not path.is_file():
        rule, remedy = "is not a file", "Give a YAML file with fields of slurm"
        raise ConfigError("slurm.config", str(path), rule, remedy)
    return ["--config", str(path)], rest


def as_arguments(
    values: Mapping[str, object], above: str = "", *, whole: Sequence[str] = ()
) -> list[str]:
    """Return nested fields as command-line arguments: ``{a: {b: 1}}`` is ``--a.b=1``.

    Values are written as the command line reads them: null, true, JSON lists. The mappings of the
    fields in `whole` are written as JSON too.
    """
    arguments: list[str] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and f"{above}{name}" not in whole:
            arguments += as_arguments(value, f"{above}{name}.", whole=whole)
        else:
            try:
                text = value if isinstance(value, str) else json.dumps(value)
            except (TypeError, ValueError, RecursionError):
                rule, remedy = "is not a value for a field", "Give a text, a number or a list"
                raise ConfigError(f"{above}{name}", type(value).__name__, rule, remedy) from None
            arguments.append(f"--{above}{name}={text}")
    return arguments
