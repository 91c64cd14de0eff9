"""What is looked at before a step waits in a queue: its paths, its config, its script."""

import subprocess
import sys
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path

from mobilellama.config import ConfigError, UserError
from mobilellama.inputs import input_paths, require_inputs
from mobilellama.launch import slurm
from mobilellama.launch.steps import given
from mobilellama.launch.submission.request import LaunchRequest


def check_inputs(
    request: LaunchRequest, made: Iterable[Path] = (), *, beside: Collection[Path] = ()
) -> None:
    """Look at what the step reads, before it waits in a queue.

    Args:
        request: what to launch.
        made: what other steps will have made by then.
        beside: what all steps of its pipeline make, later ones too.

    Raises:
        ConfigError: something is not there.
    """
    run = request.folder.run
    require_inputs(
        input_paths(*request.step.command),
        partial(given, request.step, request.arguments),
        resumes=bool(run and run.checkpoint_steps()),
        made=made,
        outputs=[request.folder.made, *beside],
    )


def check_config(request: LaunchRequest) -> None:
    """Read the stage's config as the job will, without torch, and say what is wrong with it.

    Raises:
        ConfigError: a field is unknown, missing or of the wrong type.
        UserError: the stage's command cannot be run.
    """
    command = [*request.step.command, *request.arguments]
    done = subprocess.run(
        [sys.executable, "-m", "mobilellama", *command, "--print_config"],
        cwd=request.cwd, capture_output=True, text=True, errors="replace", check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if line.startswith("mobilellama: ")]
    for line in [line for line in said if line.startswith("mobilellama: warning: ")]:
        print(line, file=sys.stderr)
        said.remove(line)
    text = " ".join(line.removeprefix("mobilellama: error: ") for line in said)
    missing = next((line for line in said if line.startswith("mobilellama: missing: ")), None)
    if missing:
        names = missing.removeprefix("mobilellama: missing: ")
        rule = "is required" if "," not in names else "are required"
        remedy = f"See 'mobilellama {' '.join(request.step.command)} --help'"
        raise ConfigError(names, "(not given)", rule, remedy)
    if done.returncode == 2 and text:
        raise UserError(text)
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-5:])
        raise UserError(
            f"mobilellama {' '.join(request.step.command)} cannot be run here:\n{tail}\n"
            "If it can only be run on the nodes, give --no-check"
        )


def require_array_fits(request: LaunchRequest) -> None:
    """Raise ConfigError if the cluster takes no job array of so many tasks."""
    if not request.step.finish:
        return
    tasks, size = request.slurm.tasks, slurm.max_array_size()
    if size is not None and tasks > size:
        raise ConfigError(
            "slurm.tasks",
            f"{tasks:,}",
            f"is more than a job array of this cluster holds (MaxArraySize = {size:,})",
            f"Give {size:,} or fewer: each task does more slices then, and takes longer. A larger "
            "slurm.cpus_per_task makes it do more at once",
        )


def require_cwd(request: LaunchRequest) -> None:
    """Raise ConfigError if a job script cannot name the folder that it starts in."""
    if not request.cwd.isprintable() or set('"%') & set(request.cwd):
        rule = "has a character that a job script cannot hold"
        raise ConfigError("the current folder", repr(request.cwd), rule, "Launch from another one")


def require_syntax(script: Path) -> None:
    """Raise UserError if bash cannot read a script: what the user gave may have broken it."""
    done = subprocess.run(
        ["bash", "-n", str(script)], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise UserError(f"{said}. Fix slurm.setup, slurm.extra or slurm.srun_extra")
