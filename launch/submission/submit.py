"""Launching one step: take a snapshot, write the scripts, submit them."""

import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from mobilellama.config import ConfigError, UserError
from mobilellama.files.atomic import whole_file
from mobilellama.launch import slurm
from mobilellama.launch.folder import Job, Launch, current_jobs
from mobilellama.launch.launched.known import remember
from mobilellama.launch.submission.check import (
    require_array_fits,
    require_cwd,
    require_syntax,
)
from mobilellama.launch.submission.render import Script, array_of
from mobilellama.launch.submission.request import LaunchRequest
from mobilellama.launch.submission.snapshot import take_snapshot
from mobilellama.progress import format_count

log = logging.getLogger(__name__)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Keep what would end this process back for the moment of a submission."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    former = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def dry_run(request: LaunchRequest) -> str:
    """Return the scripts as they would be submitted."""
    return "\n".join(script.text() for script in request.scripts())


def prepare(request: LaunchRequest) -> list[Script]:
    """Make the launch folder, the snapshot and the scripts, and ask SLURM whether it takes them.

    Raises:
        UserError: it does not.
    """
    request.folder.create()
    request.write_configs()
    scripts = request.scripts(take_snapshot(request.folder.code))
    for script in scripts:
        with whole_file(script.path) as file:
            file.write(script.text().encode())
        require_syntax(script.path)
        slurm.test_submit(str(script.path))
    return scripts


def submit(request: LaunchRequest, *, after: Sequence[str] = ()) -> Launch:
    """Submit a step.

    Args:
        request: what to launch.
        after: jobs that must have succeeded.

    Returns:
        The launch, with its jobs.

    Raises:
        ConfigError: it has more tasks than an array holds.
        UserError: it is in the queue already, or SLURM refuses it.
    """
    slurm.require_commands("sbatch", "squeue", "scontrol", "scancel")
    require_cwd(request)
    require_array_fits(request)
    folder = request.folder
    folder.create()
    with folder.submitting():
        drop_held(request)
        require_not_active(request)
        scripts = prepare(request)
        launch = request.launch()
        folder.clear_marks()
        jobs: list[Job] = []
        depends = list(after)
        for script in scripts:
            options = [f"--dependency=afterok:{':'.join(depends)}"] if depends else []
            if script.part == "tasks":
                missing = folder.tasks_missing(request.slurm.tasks, launch.signatures)
                if not missing:
                    log.info("done before: %s", format_count(request.slurm.tasks, "task"))
                    continue
                options.append(f"--array={array_of(missing, request.slurm.max_running)}")
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


def drop_held(request: LaunchRequest) -> None:
    """Cancel what of a former launch can never start, since what it waits for has failed."""
    launch = request.folder.read()
    jobs = current_jobs(request.folder, launch) if launch else {}
    held = [
        number
        for numbers in jobs.values()
        for number in numbers
        if any(state.reason == slurm.NEVER for state in slurm.states(number) if state.is_active)
    ]
    slurm.cancel(held)


def require_not_active(request: LaunchRequest, *, others: bool = True) -> None:
    """Raise UserError if the run is in the queue.

    Args:
        request: what is to be launched.
        others: refuse also if another of this user's jobs has its name.
    """
    folder = request.folder
    launch = folder.read()
    mine = current_jobs(folder, launch) if launch else {}
    for number in (number for numbers in mine.values() for number in numbers):
        if slurm.is_active(number):
            raise UserError(
                f"{folder.made}: job {number} of it is in the queue already. Look at it with "
                f"'mobilellama launch status {folder.made}', or end it with 'launch cancel'"
            )
    if others and (taken := slurm.named(request.name)):
        raise ConfigError(
            "slurm.job_name",
            request.name,
            f"is already the name of your job {taken[0]}",
            f"Give another name, or another folder; 'scancel {taken[0]}' ends that job",
        )
