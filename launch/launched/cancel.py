"""End the jobs of a launched step for good.

    mobilellama launch cancel RUN           at once; saved checkpoints stay
    mobilellama launch cancel RUN --save    after this training step, with a new checkpoint

A job that is being requeued at that moment is cancelled too. If you launch the step again, it
continues from the newest checkpoint.
"""

from dataclasses import dataclass

from mobilellama import launcher
from mobilellama.config import ConfigError, UserError
from mobilellama.launch import slurm
from mobilellama.launch.folder import LaunchFolder, current_jobs, require


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'launch cancel'."""

    run: str
    """A run's folder, or the output of another launched step."""
    save: bool = False
    """Let the run finish its training step, write a checkpoint and end."""


def main(config: Config) -> int:
    """Mark the launch as cancelled, so that nothing requeues it, and end its jobs."""
    folder, launch = require(config.run)
    if config.save and not folder.run:
        rule = "needs a run, but this step writes no checkpoints"
        raise ConfigError("save", True, rule, "Cancel without --save. Whole files stay")
    jobs = [job for numbers in current_jobs(folder, launch).values() for job in numbers]
    if not jobs:
        return cancel_local(folder)
    was_cancelled = folder.cancelled.exists()
    folder.cancelled.touch()  # before anything else: a job script looks at it before it requeues
    try:
        active = [job for job in jobs if slurm.is_active(job)]
    except UserError as error:
        remedy = f"Nothing requeues it now; end it with 'scancel {' '.join(jobs)}' later"
        raise UserError(f"{str(error).rstrip('.')}. {remedy}") from None
    if not active:
        if not was_cancelled:
            folder.cancelled.unlink(missing_ok=True)
        print(f"{folder.made}: no job of it is in the queue")
        return 0
    if config.save and folder.run:
        running = [job for job in active if _runs(job)]
        waiting = [job for job in active if job not in running]
        _end(waiting)
        # The job script asks this very start; RUN/stop would be removed by one that is beginning.
        for job in running:
            slurm.call("scancel", "--batch", "--signal=USR1", job)
        if running:
            print(f"job {', '.join(running)}: saves at the end of its step, and ends")
        return 0
    _end(active)
    return 0


def cancel_local(folder: LaunchFolder) -> int:
    """Ask a run of --local to save and stop; its own terminal's Ctrl-C does the same."""
    if not folder.is_at_work():
        print(f"{folder.made}: nothing of it runs")
        return 0
    if folder.run is None:
        raise UserError(f"{folder.made}: runs on a machine, by --local. Press Ctrl-C there")
    launcher.ask_to_stop(folder.run.stop, launcher.CANCELLED)
    print(f"{folder.made}: saves at the end of its step, and ends")
    return 0


def _runs(job: str) -> bool:
    return any(state.state == "RUNNING" for state in slurm.states(job))


def _end(jobs: list[str]) -> None:
    if not jobs:
        return
    left = slurm.cancel(jobs)
    if left:
        raise UserError(
            f"job {', '.join(left)}: still in the queue a minute after scancel. Look at it with "
            f"'scontrol show job {left[0]}'; a node that does not answer keeps a job COMPLETING"
        )
    print(f"job {', '.join(jobs)}: cancelled")
