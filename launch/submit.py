"""Launching one step: check its config, take a snapshot, write the script, submit it."""

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from mobilellama.config import ConfigError, UserError
from mobilellama.files.atomic import whole_file
from mobilellama.inputs import input_paths, require_inputs
from mobilellama.launch import slurm
from mobilellama.launch.config import SlurmConfig
from mobilellama.launch.folder import Job, Launch, LaunchFolder, current_jobs
from mobilellama.launch.known import remember
from mobilellama.launch.render import Script, array_of
from mobilellama.launch.snapshot import snapshot_name, take_snapshot
from mobilellama.launch.steps import STEPS, Step, folder_of, given, with_frozen_configs

log = logging.getLogger(__name__)

_NAME = re.compile(r"[^A-Za-z0-9_.+-]+")


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Keep what would end this process back for the moment of a submission."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    former = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


@dataclass(frozen=True, kw_only=True)
class Order:
    """A step as it is to be launched."""

    step_name: str
    arguments: list[str]
    """The stage's."""
    slurm: SlurmConfig
    cwd: str

    @property
    def step(self) -> Step:
        """The step."""
        return STEPS[self.step_name]

    @property
    def folder(self) -> LaunchFolder:
        """Where the launch is kept."""
        return LaunchFolder.of(self.step, folder_of(self.step, self.arguments))

    @property
    def name(self) -> str:
        """The job's name."""
        return self.slurm.job_name or _NAME.sub("-", self.folder.made.name)

    @property
    def frozen(self) -> tuple[list[str], dict[Path, bytes]]:
        """The arguments with copies for their config files, and those copies."""
        return with_frozen_configs(self.arguments, self.folder.root, self.step.presets)

    def launch(self, jobs: Sequence[Job] = ()) -> Launch:
        """Return what launch.json will say."""
        return Launch(
            step=self.step_name,
            name=self.name,
            arguments=self.frozen[0],
            folder=str(self.folder.made),
            cwd=self.cwd,
            submitted=datetime.now().astimezone().isoformat(timespec="seconds"),
            tasks=self.slurm.tasks if self.step.finish else 0,
            jobs=list(jobs),
        )

    def write_configs(self) -> None:
        """Write the copies of the config files."""
        for path, content in self.frozen[1].items():
            with whole_file(path) as file:
                file.write(content)

    def scripts(self, code: Path | None = None) -> list[Script]:
        """Return the job scripts, in order.

        Args:
            code: the snapshot; None names the one that would be taken.
        """
        whole = Script(
            step=self.step,
            part="tasks" if self.step.finish else "run",
            name=self.name,
            arguments=self.frozen[0],
            folder=self.folder,
            cwd=self.cwd,
            code=code or self.folder.code / snapshot_name(),
            python=self.slurm.python or sys.executable,
            signature=self.launch().signature,
            slurm=self.slurm,
        )
        if not self.step.finish:
            return [whole]
        return [whole, replace(whole, part="finish", name=f"{self.name}-finish")]


def check_inputs(order: Order, made: Iterable[Path] = ()) -> None:
    """Look at what the step reads, before it waits in a queue.

    Args:
        order: what to launch.
        made: what other steps will have made by then.

    Raises:
        ConfigError: something is not there.
    """
    run = order.folder.run
    require_inputs(
        input_paths(*order.step.command),
        partial(given, order.step, order.arguments),
        resumes=bool(run and run.checkpoint_steps()),
        made=made,
    )


def check_order(order: Order) -> None:
    """Read the stage's config as the job will, and say what is wrong with it.

    Raises:
        ConfigError: a field is unknown, missing or of the wrong type.
        UserError: the stage's command cannot be run.
    """
    command = [*order.step.command, *order.arguments]
    done = subprocess.run(
        [sys.executable, "-m", "mobilellama", *command, "--print_config"],
        cwd=order.cwd, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        env=os.environ | {"DS_ACCELERATOR": "cpu"},
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
        remedy = f"See 'mobilellama {' '.join(order.step.command)} --help'"
        raise ConfigError(names, "(not given)", rule, remedy)
    if done.returncode == 2 and text:
        raise UserError(text)
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-5:])
        raise UserError(
            f"mobilellama {' '.join(order.step.command)} cannot be run here:\n{tail}\n"
            "If it can only be run on the nodes, give --no-check"
        )


def require_cwd(order: Order) -> None:
    """Raise ConfigError if a job script cannot name the folder that it starts in."""
    if not order.cwd.isprintable() or set('"%') & set(order.cwd):
        rule = "has a character that no job script can hold"
        raise ConfigError("the current folder", repr(order.cwd), rule, "Launch from another one")


def dry_run(order: Order) -> str:
    """Return the scripts as they would be submitted."""
    return "\n".join(script.text() for script in order.scripts())


def prepare(order: Order) -> list[Script]:
    """Make the launch folder, the snapshot and the scripts, and ask SLURM whether it takes them.

    Raises:
        UserError: it does not.
    """
    order.folder.create()
    order.write_configs()
    scripts = order.scripts(take_snapshot(order.folder.code))
    for script in scripts:
        with whole_file(script.path) as file:
            file.write(script.text().encode())
        require_syntax(script.path)
        slurm.test_submit(str(script.path))
    return scripts


def require_syntax(script: Path) -> None:
    """Raise UserError if bash cannot read a script: what the user gave may have broken it."""
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise UserError(f"{said}. Fix slurm.setup, slurm.extra or slurm.srun_extra")


def submit(order: Order, *, after: Sequence[str] = ()) -> Launch:
    """Submit a step.

    Args:
        order: what to launch.
        after: jobs that must have succeeded.

    Returns:
        The launch, with its jobs.

    Raises:
        UserError: it is in the queue already, or SLURM refuses it.
    """
    slurm.require_commands("sbatch", "squeue", "scontrol", "scancel")
    require_cwd(order)
    folder = order.folder
    folder.create()
    with folder.submitting():
        drop_held(order)
        require_not_active(order)
        scripts = prepare(order)
        launch = order.launch()
        folder.clear_marks()
        jobs: list[Job] = []
        depends = list(after)
        for script in scripts:
            options = [f"--dependency=afterok:{':'.join(depends)}"] if depends else []
            if script.part == "tasks":
                missing = folder.tasks_missing(order.slurm.tasks, launch.signature)
                if not missing:
                    log.info("all %d tasks are done", order.slurm.tasks)
                    continue
                options.append(f"--array={array_of(missing, order.slurm.max_running)}")
            # At once: a job that is not written down could not be found again.
            with signals_held_back():
                number = slurm.submit(str(script.path), *options)
                jobs.append(Job(part=script.part, id=number, script=str(script.path)))
                try:
                    folder.write(replace(launch, jobs=jobs))
                except BaseException:
                    slurm.cancel([number])
                    raise
            remember(folder.made)
            depends = [number]
    return replace(launch, jobs=jobs)


def drop_held(order: Order) -> None:
    """Cancel what of a former launch can never start, since what it waits for has failed."""
    launch = order.folder.read()
    jobs = current_jobs(order.folder, launch) if launch else {}
    held = [
        number
        for numbers in jobs.values()
        for number in numbers
        if any(state.reason == slurm.NEVER for state in slurm.states(number) if state.is_active)
    ]
    slurm.cancel(held)


def require_not_active(order: Order, *, others: bool = True) -> None:
    """Raise UserError if the run is in the queue.

    Args:
        order: what is to be launched.
        others: refuse also if another of this user's jobs has its name.
    """
    folder = order.folder
    launch = folder.read()
    mine = current_jobs(folder, launch) if launch else {}
    for number in (number for numbers in mine.values() for number in numbers):
        if slurm.is_active(number):
            raise UserError(
                f"{folder.made}: job {number} of it is in the queue already. Look at it with "
                f"'mobilellama launch status {folder.made}', or end it with 'launch cancel'"
            )
    if others and (taken := slurm.named(order.name)):
        raise ConfigError(
            "slurm.job_name",
            order.name,
            f"is the name of your job {taken[0]} already",
            f"Give another name, or another folder; 'scancel {taken[0]}' ends that job",
        )
