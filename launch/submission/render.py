"""From a step and SLURM's fields to a job script that a person can read."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mobilellama
from mobilellama.launch.config import SlurmConfig
from mobilellama.launch.folder import LaunchFolder
from mobilellama.launch.steps import Step

TEMPLATE = Path(__file__).parents[1] / "job.sbatch"
_TASK_CPUS = 4


@dataclass(frozen=True, kw_only=True)
class Script:
    """What a job script is made of."""

    step: Step
    part: str
    """What it runs: "run" or, of an array's launch, "tasks" and "finish"."""
    name: str
    """The job's."""
    arguments: Sequence[str]
    """The stage's."""
    folder: LaunchFolder
    cwd: str
    code: Path
    """Where the package's snapshot is."""
    python: str
    signature: str
    slurm: SlurmConfig

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return self.folder.root / ("finish.sbatch" if self.part == "finish" else "job.sbatch")

    @property
    def trains(self) -> bool:
        """Whether it runs one process a GPU."""
        return self.step.kind == "train"

    @property
    def command(self) -> list[str]:
        """Stage, verb and arguments."""
        if self.part == "finish":
            assert self.step.finish
            return [*self.step.finish, f"--{self.step.folder}={self.folder.made}"]
        return [*self.step.command, *self.arguments]

    def options(self) -> list[str]:
        """Return the options of sbatch."""
        slurm = self.slurm
        log = "batch-%A_%a.log" if self.part == "tasks" else "batch-%j.log"
        output = f"{str(self.folder.logs).replace('%', '%%')}/{log}"
        partition = slurm.partition
        if not self.step.uses_gpus:
            partition = slurm.cpu_partition or partition
        options = [
            f"--job-name={self.name}",
            f"--chdir={self.cwd}",
            f"--output={output}",
            "--open-mode=append",
            "--requeue",
            f"--signal=B:USR1@{slurm.warn_s}",
            f"--time={slurm.time}",
            *self._resources(),
        ]
        if self.part == "tasks":
            options.append(f"--array={array_of(range(slurm.tasks), slurm.max_running)}")
        optional = {"partition": partition, "account": slurm.account, "exclude": slurm.exclude}
        options += [f"--{name}={value}" for name, value in optional.items() if value]
        return [_quoted(option) for option in options] + ([slurm.extra] if slurm.extra else [])

    def _resources(self) -> list[str]:
        slurm = self.slurm
        memory = [f"--mem={slurm.mem}"] if slurm.mem else []
        if self.trains:
            gpus = [f"--gpus-per-node={slurm.gpus_per_node}"] if slurm.gpus_per_node else []
            cpus = [f"--cpus-per-task={slurm.cpus_per_task}"] if slurm.cpus_per_task else []
            return [
                f"--nodes={slurm.nodes}",
                f"--ntasks-per-node={slurm.processes_per_node}",
                *gpus, *cpus, "--exclusive", *(memory or ["--mem=0"]),
            ]  # fmt: skip
        gpus = [f"--gpus-per-node={self.step.gpus}"] if self.step.gpus else []
        cpus = slurm.cpus_per_task or _TASK_CPUS
        return [
            "--nodes=1", "--ntasks-per-node=1", f"--cpus-per-task={cpus}", *gpus, *memory,
        ]  # fmt: skip

    def text(self) -> str:
        """Return the script."""
        import jinja2

        slurm = self.slurm
        command = shlex.join(self.command)
        if self.part == "tasks":
            command += f' --task_index="$SLURM_ARRAY_TASK_ID" --task_count={slurm.tasks}'
            if not any(word.partition("=")[0] == "--workers" for word in self.arguments):
                command += ' --workers="$SLURM_CPUS_PER_TASK"'
        bind = f"--cpu-bind={slurm.cpu_bind} " if slurm.cpu_bind and self.trains else ""
        values: dict[str, object] = {
            "title": f"{' '.join(self.command[:2])} -> {self.folder.made}",
            "version": mobilellama.__version__,
            "options": self.options(),
            "slurm": slurm,
            "env": {name: shlex.quote(str(value)) for name, value in slurm.env.items()},
            "train": self.trains,
            "array": self.part == "tasks",
            "makes_buckets": self.step.makes_buckets,
            "part": self.part,
            "made": shlex.quote(str(self.folder.made)),
            "launch": shlex.quote(str(self.folder.root)),
            "logs": shlex.quote(str(self.folder.logs)),
            "code": shlex.quote(str(self.code)),
            "python": shlex.quote(self.python),
            "script": shlex.quote(str(self.path)),
            "scratch": shlex.quote(slurm.scratch),
            "signature": self.signature,
            "look_every_s": max(1, min(30, round(60 * slurm.hang_minutes / 4))),
            "per_node": slurm.processes_per_node,
            "gpus": slurm.gpus_per_node if self.trains else self.step.gpus,
            "srun_options": bind + (f"{slurm.srun_extra} " if slurm.srun_extra else ""),
            "command": command,
        }
        environment = jinja2.Environment(
            trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
            undefined=jinja2.StrictUndefined, autoescape=False,
        )  # fmt: skip
        return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(values)


def _quoted(option: str) -> str:
    """Quote an option of sbatch's for a line of a script, if it needs to be."""
    name, _, value = option.partition("=")
    return f'{name}="{value}"' if set(value) & set(" \t'#;&|") else option


def array_of(tasks: Sequence[int], max_running: int | None) -> str:
    """Return sbatch's words for tasks, as ``0-3,7%2``."""
    spans: list[list[int]] = []
    for task in tasks:
        if spans and task == spans[-1][1] + 1:
            spans[-1][1] = task
        else:
            spans.append([task, task])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return f"{text}%{max_running}" if max_running else text
