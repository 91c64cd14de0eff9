"""Show the output of one process of a launched step.

    mobilellama launch logs RUN                      the first process of the newest start
    mobilellama launch logs RUN --rank 12 --follow   process 12, also its new lines
    mobilellama launch logs RUN --rank batch         the decisions of the job script

RUN is a run's folder, or the output of another step. Ctrl-C ends this command, but not the job.
"""

import codecs
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellama.config import ConfigError, UserError, require_at_least
from mobilellama.launch import slurm
from mobilellama.launch.folder import Launch, LaunchFolder, current_jobs, is_local, require
from mobilellama.terminal import columns, wrapped

_POLL_S = 0.5
_ASK_SLURM_EVERY_S = 15.0
# A rank whose peer is gone says so: ours in the first words, NCCL and the store with their errors.
_CONSEQUENCE = re.compile("another rank|DistBackendError|DistNetworkError")
_ERROR = re.compile(r"^(mobilellama: error:|[A-Za-z0-9_.]*(Error|Exception)\b)")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'launch logs'."""

    run: str
    """A run's folder, or the output of another launched step."""
    rank: str = "0"
    """Number of the process. batch: the job script."""
    start: str | None = None
    """The start, as JOB.RESTARTS (the folders of logs/ have these names). None: the newest."""
    follow: bool = False
    """Also print new lines, until the job is over."""
    lines: int | None = None
    """Print only so many of the last lines. None: all lines."""

    def __post_init__(self) -> None:
        if self.rank != "batch" and not self.rank.isdigit():
            remedy = "Give the number of a process, or batch"
            raise ConfigError("rank", self.rank, "is not a process", remedy)
        if self.lines is not None:
            require_at_least("lines", self.lines, 1)


def main(config: Config) -> int:
    """Print the log, and what is added to it."""
    folder, launch = require(config.run)
    path = log_file(folder, rank=config.rank, start=config.start)
    if path is None and not config.follow:
        raise UserError(f"{folder.logs}: {_nothing(config, folder, launch)}")
    shown = Follower(path or folder.logs / "none yet", last_lines=config.lines)
    shown.print_new()
    if not config.follow:
        return 0
    asked_s = time.monotonic()
    while True:
        time.sleep(_POLL_S)
        shown.print_new()
        newest = log_file(folder, rank=config.rank, start=config.start)
        if newest and newest != shown.path:
            print(f"--- {newest}", flush=True)
            shown = Follower(newest)
        elif time.monotonic() - asked_s > _ASK_SLURM_EVERY_S:
            asked_s = time.monotonic()
            if is_over(folder, launch):
                shown.print_new()
                told = f"--- it is over; see 'mobilellama launch status {config.run}'"
                print(told, flush=True)
                return 0


def is_over(folder: LaunchFolder, launch: Launch) -> bool:
    """Return whether nothing of a launch waits or runs any more."""
    jobs = [job for jobs in current_jobs(folder, launch).values() for job in jobs]
    if not jobs:  # by --local
        return not folder.is_at_work()
    return not any(slurm.is_active(job) for job in jobs)


def starts(folder: LaunchFolder) -> list[Path]:
    """Return the log folders of all starts, the oldest first."""
    if not folder.logs.is_dir():
        return []
    found = [path for path in folder.logs.iterdir() if re.fullmatch(r"\w+\.\d+", path.name)]
    return sorted((path for path in found if path.is_dir()), key=begun)


def begun(path: Path) -> tuple[float, int]:
    """Return what sorts starts by time: each writes its environment first, and never again."""
    environment = path / "environment"
    begun_s = environment.stat().st_mtime if environment.is_file() else 0.0
    return begun_s, int(path.name.rpartition(".")[2])


def log_file(folder: LaunchFolder, *, rank: str, start: str | None) -> Path | None:
    """Return the newest log of a process; None where there is none yet."""
    if rank == "batch":
        logs = [path for path in folder.logs.glob("batch-*.log")]
        return max(logs, key=lambda path: path.stat().st_mtime, default=None)
    found = [path / f"rank-{rank}.log" for path in starts(folder) if start in (None, path.name)]
    return next((path for path in reversed(found) if path.is_file()), None)


def first_error(logs: Path) -> str | None:
    """Return the first line with an error that a process of a start printed.

    That another rank failed, or that the connection to it is lost, is a consequence.
    """
    found = [
        line[:500]
        for path in sorted(logs.glob("rank-*.log"))
        for line in path.read_text(errors="replace").splitlines()
        if _ERROR.match(line)
    ]
    causes = [line for line in found if not _CONSEQUENCE.search(line)]
    return next(iter([*causes, *found]), None)


def _nothing(config: Config, folder: LaunchFolder, launch: Launch) -> str:
    if is_local(folder, launch) and (folder.run is None or config.rank == "batch"):
        return "holds no such log. By --local, only the processes of a training have logs"
    names: Sequence[str] = [path.name for path in starts(folder)]
    if config.start and config.start not in names:
        return f"holds no start {config.start}; there are {', '.join(names) or 'none yet'}"
    return f"holds no log of rank {config.rank} yet. Has the job begun? See 'launch status'"


class Follower:
    """Prints what is added to a file; in a terminal, in lines that fit."""

    def __init__(self, path: Path, *, last_lines: int | None = None) -> None:
        self.path, self._offset = path, 0
        self._last_lines, self._ends_in_line = last_lines, False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def print_new(self) -> None:
        """Print what has come since the last call."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                new = file.read()
        except OSError:
            return
        self._offset += len(new)
        if self._last_lines is not None:
            new = b"".join(new.splitlines(keepends=True)[-self._last_lines :])
            self._last_lines = None
        if new:
            text = self._decoder.decode(new)
            begun, newline, rest = text.partition("\n") if self._ends_in_line else ("", "", text)
            self._ends_in_line = not text.endswith("\n")
            sys.stdout.write(begun + newline + wrapped(rest, columns(sys.stdout)))
            sys.stdout.flush()
