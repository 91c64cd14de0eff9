"""What the launcher keeps beside what a step makes.

RUN/launch/ of a run, OUTPUT.launch/ of other steps:

  launch.json      the command, its jobs, and when it was launched
  job.sbatch       the script that SLURM runs, to be read, edited and submitted again;
                   finish.sbatch for what follows a job array
  config-HASH.yaml copies of the --config files that the command names
  code/NAME/       the package as it was when it was launched
  NAME.finished    done; holds the launch's signature. NAME is "run", "finish", or an array's task
  NAME.failed      given up, and why
  NAME.failures    failures in a row: how many, and at which progress
  NAME.bad         starts in a row that found bad nodes
  NAME.resubmitted jobs that the script submitted in its own place
  cancelled        'launch cancel' was called: nothing is requeued
  lock             held while something is being submitted

Logs are in RUN/logs, OUTPUT.launch/logs: batch-JOB.log, and JOB.RESTARTS/rank-R.log.
"""

import fcntl
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from mobilellama.config import ConfigError, UserError
from mobilellama.files.atomic import lock, sha256_of_json
from mobilellama.files.sealed import read_sealed_json, write_sealed_json
from mobilellama.launch.steps import STEPS, Step
from mobilellama.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job that was submitted."""

    part: str
    """What it runs: "run" or, of an array's launch, "tasks" and "finish"."""
    id: str
    """SLURM's number."""
    script: str
    """Path of its script."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What was launched."""

    step: str
    """Its name in ``steps.STEPS``."""
    name: str
    """Its name in the queue."""
    arguments: list[str]
    """The stage's."""
    folder: str
    """What it makes, an absolute path."""
    cwd: str
    """Where relative paths in the arguments begin."""
    submitted: str
    """When, in ISO format."""
    tasks: int
    """Tasks of the whole array; 0 where there is none."""
    jobs: list[Job]

    @property
    def signature(self) -> str:
        """A short hash of what is run: another one is other work."""
        return self._signature_of(self.arguments)

    @property
    def signatures(self) -> set[str]:
        """The signatures of the same work with --config FILE as two words, and as one.

        A former version stored one word where two were given.
        """
        forms = (self.arguments, _config_as_two_words(self.arguments))
        return {self._signature_of(form) for form in (*forms, _config_as_one_word(forms[1]))}

    def _signature_of(self, arguments: Sequence[str]) -> str:
        return sha256_of_json([self.step, arguments, self.cwd, self.folder])[:16]


def _config_as_two_words(arguments: Sequence[str]) -> list[str]:
    words: list[str] = []
    for word in arguments:
        words += word.split("=", 1) if word.startswith("--config=") else [word]
    return words


def _config_as_one_word(arguments: Sequence[str]) -> list[str]:
    """Return arguments, which have --config as two words, with it as one."""
    words: list[str] = []
    for word in arguments:
        if words and words[-1] == "--config":
            words[-1] = f"--config={word}"
        else:
            words.append(word)
    return words


class LaunchFolder:
    """Paths of a launch, and what may be done with them."""

    def __init__(self, made: Path, *, train: bool) -> None:
        """Name the folder of a launch.

        Args:
            made: what the step makes; an absolute path.
            train: whether that is a run's folder.
        """
        self.made = made
        self.root = made / "launch" if train else made.with_name(f"{made.name}.launch")
        self.logs = made / "logs" if train else self.root / "logs"
        self.launch = self.root / "launch.json"
        self.code = self.root / "code"
        self.cancelled = self.root / "cancelled"
        self.run = RunFolder(made) if train else None

    @classmethod
    def of(cls, step: Step, made: Path) -> "LaunchFolder":
        """Return the launch folder of what a step makes."""
        return cls(made, train=step.kind == "train")

    def mark(self, part: str, kind: str) -> Path:
        """Return the path of a part's mark: finished, failed, failures or resubmitted."""
        return self.root / f"{part}.{kind}"

    def read(self) -> Launch | None:
        """Return what was launched; None if nothing was.

        Raises:
            UserError: launch.json is damaged.
        """
        if not self.launch.is_file():
            return None
        try:
            values = read_sealed_json(self.launch, owner=None)
            values["jobs"] = [Job(**job) for job in values["jobs"]]
            launch = Launch(**values)
            if launch.step not in STEPS or not all(job.id.isdigit() for job in launch.jobs):
                raise ValueError("it names an unknown step or job")
            return launch
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{self.launch}: is damaged ({error}). Remove it; jobs that it named are in "
                "'squeue --me'"
            ) from None

    def write(self, launch: Launch) -> None:
        """Write launch.json."""
        write_sealed_json(self.launch, asdict(launch))

    def is_finished(self, part: str, signatures: Collection[str]) -> bool:
        """Return whether a part of this very launch was done.

        Args:
            part: of the launch.
            signatures: of the launch, in all forms.
        """
        path = self.mark(part, "finished")
        return path.is_file() and path.read_text(errors="replace").strip() in signatures

    def tasks_missing(self, count: int, signatures: Collection[str]) -> list[int]:
        """Return the tasks of an array that are not done."""
        parts = {task: task_name(task, count) for task in range(count)}
        return [task for task, part in parts.items() if not self.is_finished(part, signatures)]

    def failures(self) -> dict[str, str]:
        """Return why parts were given up, by part."""
        return {
            path.stem: path.read_text(errors="replace").strip()
            for path in sorted(self.root.glob("*.failed"))
        }

    def clear_marks(self) -> None:
        """Forget what former launches left, but for finished tasks."""
        self.cancelled.unlink(missing_ok=True)
        for kind in ("failed", "failures", "bad", "resubmitted"):
            for path in self.root.glob(f"*.{kind}"):
                path.unlink(missing_ok=True)
        for part in ("run", "finish"):
            self.mark(part, "finished").unlink(missing_ok=True)

    def create(self) -> None:
        """Make the folders.

        Raises:
            ConfigError: they cannot be made.
        """
        if self.run:
            self.run.require_usable()
        try:
            for folder in (self.root, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            rule = f"cannot be made ({error.strerror})"
            remedy = "Give a writable folder that all nodes see"
            raise ConfigError("folder", str(self.root), rule, remedy) from None

    def is_at_work(self) -> bool:
        """Whether another command holds the lock: it submits, or runs the step by --local."""
        try:
            with open(self.root / "lock", "ab") as file:
                return not lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False

    @contextmanager
    def submitting(self) -> Iterator[BinaryIO]:
        """Keep a second launch of the same folder out meanwhile.

        Yields the file whose lock does so; a process that inherits it holds the lock too.

        Raises:
            UserError: one is at it.
        """
        with open(self.root / "lock", "ab") as file:
            if not lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                raise UserError(
                    f"{self.made}: is being launched, or runs by --local, in another command. Wait "
                    f"for it, or end it with 'mobilellama launch cancel {self.made}'"
                )
            yield file


def task_name(task: int, count: int) -> str:
    """Return the name of an array task's marks."""
    return f"task-{task}-of-{count}"


_TASK = re.compile(r"task-(\d+)-of-\d+")


def task_number(part: str) -> int | None:
    """Return the number of the task whose marks are so named."""
    match = _TASK.fullmatch(part)
    return int(match[1]) if match else None


def find(path: str | Path) -> LaunchFolder | None:
    """Return the launch folder that belongs to a path: a run, an output, or itself."""
    made = Path(path).absolute()
    if made.name == "launch" and (made / "launch.json").is_file():
        made = made.parent
    name = made.name.removesuffix(".launch")
    if not name:
        return None
    made = made.with_name(name)
    for train in (True, False):
        folder = LaunchFolder(made, train=train)
        if folder.launch.is_file():
            return folder
    return None


def require(path: str) -> tuple[LaunchFolder, Launch]:
    """Return the launch of a run's folder or an output.

    Raises:
        ConfigError: nothing was launched there.
    """
    folder = find(path)
    launch = folder.read() if folder else None
    if folder is None or launch is None:
        rule = "was not launched by 'mobilellama launch'"
        remedy = "Give a run's folder or the output of a launched stage"
        raise ConfigError("run", path, rule, remedy)
    return folder, launch


def parts_of(launch: Launch) -> Sequence[str]:
    """Return the parts of a launch, the first one first."""
    return ("tasks", "finish") if STEPS[launch.step].finish else ("run",)


def current_jobs(folder: LaunchFolder, launch: Launch) -> dict[str, list[str]]:
    """Return the numbers of a launch's jobs by part; a script may have submitted others itself."""
    jobs = {job.part: [job.id] for job in launch.jobs}
    for path in folder.root.glob("*.resubmitted"):
        part = "tasks" if path.stem.startswith("task-") else path.stem
        others = jobs.setdefault(part, [])
        others += [
            job
            for job in path.read_text(errors="replace").split()
            if job.isdigit() and job not in others
        ]
    return jobs


def is_local(folder: LaunchFolder, launch: Launch) -> bool:
    """Return whether a launch runs by --local. Then SLURM has no job of it."""
    return not current_jobs(folder, launch)
