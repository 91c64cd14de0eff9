"""``--local``: a step on this machine, by the rules that its job script follows on a cluster.

Training runs under torchrun, one process a GPU. How it ended is what verdict.json says: finished
and failed are final; after a crash it is started again from its newest checkpoint, until so many
starts in a row (slurm.max_failures) have saved nothing new. Ctrl-C saves and ends it; the same
command goes on.
"""

import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from mobilellama import launcher, signals
from mobilellama.config import UserError
from mobilellama.cpus import cpu_budget
from mobilellama.launch import slurm
from mobilellama.launch.folder import LaunchFolder
from mobilellama.launch.launched.known import remember
from mobilellama.launch.launched.logs import Follower, first_error
from mobilellama.launch.launched.progress_made import progress_made
from mobilellama.launch.submission.request import LaunchRequest
from mobilellama.launch.submission.snapshot import take_snapshot
from mobilellama.launch.submission.submit import require_not_active
from mobilellama.progress import format_count
from mobilellama.terminal import SHOWN_WIDTH, columns

log = logging.getLogger(__name__)

FAILED = 2
"""Exit code of a step that failed for good, as of every command that a user must fix."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 5.0, 60.0
_POLL_S = 0.2
_OF_A_RANK = {
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "TORCHELASTIC_RUN_ID",
}  # fmt: skip
_KILL_AFTER_S = 10.0


def run_locally(request: LaunchRequest, *, processes: int | None, dry_run: bool) -> int:
    """Run a step to its end and return its exit code.

    Args:
        request: what to run.
        processes: of training; None is one a GPU, and without GPUs what the stage itself starts.
        dry_run: only print the command.

    Raises:
        UserError: it failed for good, with a message that the terminal does not show yet.
    """
    folder = request.folder
    if processes is None:
        processes = len(list(Path("/dev").glob("nvidia[0-9]*")))
    command = local_command(request, processes)
    if dry_run:
        print(shlex.join(command))
        return 0
    folder.create()
    # Held to the end, and by the step itself: two of one folder would be in each other's way.
    with folder.submitting() as held:
        require_not_active(request, others=False)
        request.write_configs()
        code = take_snapshot(folder.code)
        folder.clear_marks()
        folder.write(request.launch())
        remember(folder.made)
        return Supervisor(request, command, code, held.fileno(), processes).run()


def local_command(request: LaunchRequest, processes: int) -> list[str]:
    """Return the command of a step: torchrun for training on several processes."""
    python = request.slurm.python or sys.executable
    stage = [python, "-m", "mobilellama", *request.step.command, *request.frozen[0]]
    if request.step.kind != "train":
        return stage  # its progress bars want the terminal
    logged = f'exec {shlex.join(stage)} >> "$MOBILELLAMA_LOGS/rank-${{RANK:-0}}.log" 2>&1'
    if processes < 1:
        return ["bash", "-c", logged]
    torchrun = [python, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc_per_node={processes}", "--no_python", "bash", "-c", logged]


class Supervisor:
    """Starts a step again and again until it is done, has failed for good, or was stopped."""

    def __init__(
        self, request: LaunchRequest, command: list[str], code: Path, held: int, processes: int
    ) -> None:
        """Take note of what is run.

        Args:
            request: the step.
            command: its command line.
            code: the snapshot.
            held: descriptor of the locked file, which the step inherits.
            processes: of training.
        """
        self._request, self._command, self._code, self._held = request, command, code, held
        self._folder: LaunchFolder = request.folder
        self._processes = processes
        self._signals: list[int] = []
        self._attempt_before = 0

    def run(self) -> int:
        """Run to the end."""
        failures, wait_s = 0, _FIRST_WAIT_S
        while True:
            before = progress_made(self._request.step, self._folder)
            self._attempt_before = self._folder.run.newest_attempt() if self._folder.run else 0
            logs = self._new_logs()
            # Other steps than training print to this terminal.
            place = f"; logs in {logs}" if self._folder.run else ""
            log.info("start on this machine, %s saved%s", before, place)
            code = self._start(logs)
            if (done := self._conclude(code, logs)) is not None:
                return done
            now = progress_made(self._request.step, self._folder)
            failures, wait_s = (failures + 1, wait_s * 2) if now == before else (1, _FIRST_WAIT_S)
            reason = f"exit code {code}: {first_error(logs) or 'no message'}"
            if failures >= self._request.slurm.max_failures:
                self._give_up(
                    f"{reason}; {format_count(failures, 'time')} in a row with {now} saved"
                )
            log.warning(
                "%s; failure %d of %d with %s saved; starting again",
                reason, failures, self._request.slurm.max_failures, now,
            )  # fmt: skip
            if self._wait(min(wait_s, _LONGEST_WAIT_S)):
                return 130

    def _new_logs(self) -> Path:
        number = 0
        while (self._folder.logs / f"local.{number}").exists():
            number += 1
        logs = self._folder.logs / f"local.{number}"
        logs.mkdir(parents=True)
        (logs / "environment").touch()  # as a job script's start has one
        return logs

    def _start(self, logs: Path) -> int:
        """Start the command, show what its first process prints, and wait for its end."""
        paths = [str(self._code), os.environ.get("PYTHONPATH", "")]
        # A launcher's variables in this shell would make one rank of many of the run.
        environment = {n: v for n, v in slurm.environment().items() if n not in _OF_A_RANK}
        environment |= {name: str(value) for name, value in self._request.slurm.env.items()}
        environment |= {
            launcher.LAUNCH: str(self._folder.root),
            launcher.STOP_FILE: str(logs / "stop"),
            launcher.FAILED_FILE: str(logs / "failed"),
            "MOBILELLAMA_LOGS": str(logs),
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
        }
        if self._folder.run and (width := columns(sys.stdout)):
            environment[SHOWN_WIDTH] = str(width)
        if self._request.step.kind == "train" and self._processes > 1:
            # Else torchrun would give each process one CPU.
            threads = cpu_budget(processes=self._processes)
            environment.setdefault("OMP_NUM_THREADS", str(threads.count))
        with self._signals_held(), open(logs / "torchrun.log", "wb") as torchrun:
            # A session of its own: the terminal's Ctrl-C comes to us alone, who ask for a stop.
            process = subprocess.Popen(
                self._command,
                cwd=self._request.cwd,
                env=environment,
                start_new_session=True,
                pass_fds=(self._held,),
                stdout=torchrun if self._folder.run else None,
                stderr=torchrun if self._folder.run else None,
            )
            try:
                return self._watch(process, logs)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def _watch(self, process: subprocess.Popen[bytes], logs: Path) -> int:
        shown = Follower(logs / "rank-0.log")
        handled = 0
        while process.poll() is None:
            shown.print_new()
            if len(self._signals) > handled:
                handled += 1
                self._ask_to_stop(process, logs, again=handled > 1)
            time.sleep(_POLL_S)
        shown.print_new()
        return process.returncode

    def _ask_to_stop(self, process: subprocess.Popen[bytes], logs: Path, *, again: bool) -> None:
        if again:
            log.warning("ending it at once, without a checkpoint")
            os.killpg(process.pid, signal.SIGTERM)
            end_s = time.monotonic() + _KILL_AFTER_S
            while process.poll() is None and time.monotonic() < end_s:
                time.sleep(_POLL_S)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        elif self._folder.run:
            log.info("asking it to save and stop; a second signal ends it at once")
            cause = launcher.signal_cause(signal.Signals(self._signals[0]).name)
            launcher.ask_to_stop(logs / "stop", cause)
        else:
            os.killpg(process.pid, signal.SIGINT)

    @contextmanager
    def _signals_held(self) -> Iterator[None]:
        """Note the signals that ask for an end instead of dying of them."""

        def note(number: int, frame: FrameType | None) -> None:
            del frame
            self._signals.append(number)

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        with signals.answering(None):  # the step's log says what is kept
            former = {number: signal.signal(number, note) for number in numbers}
            try:
                yield
            finally:
                for number, handler in former.items():
                    signal.signal(number, handler)

    def _wait(self, seconds: float) -> bool:
        """Wait before the next start; return whether a signal came."""
        with self._signals_held():
            end_s = time.monotonic() + seconds
            while time.monotonic() < end_s and not self._signals:
                time.sleep(_POLL_S)
        return bool(self._signals)

    def _conclude(self, code: int, logs: Path) -> int | None:
        """Return the exit code if this was the last start, None for another."""
        verdict = self._folder.run.read_verdict() if self._folder.run else None
        if verdict and verdict.attempt <= self._attempt_before:
            verdict = None  # a former start's
        if verdict and verdict.kind == "failed":
            return self._give_up(verdict.message, shown=self._was_shown(verdict.message, logs))
        finished = verdict.kind == "finished" if verdict else code == 0 and not self._folder.run
        if finished:
            part = "finish" if self._request.step.finish else "run"
            self._folder.mark(part, "finished").write_text(self._request.launch().signature + "\n")
            return 0
        if verdict and verdict.kind == "stopped":
            log.info("%s; the same command goes on from there", verdict.message)
            return 0
        if self._signals:
            return 130
        if (logs / "failed").is_file():
            message = (logs / "failed").read_text().strip()
            return self._give_up(message, shown=self._was_shown(message, logs))
        return None

    def _was_shown(self, message: str, logs: Path) -> bool:
        """Return whether a start's own error is in the terminal already; of a run, rank 0's is."""
        if self._folder.run is None:
            return True
        log = logs / "rank-0.log"
        return log.is_file() and message in log.read_text(errors="replace")

    def _give_up(self, message: str, *, shown: bool = False) -> int:
        """Mark that it has failed for good; return the exit code, or raise what is not shown."""
        part = "finish" if self._request.step.finish else "run"
        self._folder.mark(part, "failed").write_text(f"{message}\n")
        if not shown:
            raise UserError(message)
        return FAILED
