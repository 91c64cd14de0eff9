"""Notices that the ranks hang: each rank watches itself, and all leave so that they start again.

A thread on each rank looks at when the rank last did something. Where that is too long ago, it
    1. writes the stacks of all Python threads of its process to
       RUN/logs/stacks-ATTEMPT-rank-R.txt, below a line of JSON that says where the rank is;
    2. waits a little for the files of the other ranks: a rank without one cannot run any more;
    3. on the lowest rank that can, names the ranks that did not arrive, on the console and in
       RUN/logs/hang-ATTEMPT.txt, and kills those of them that no launcher will end;
    4. leaves with the exit code HUNG and without a verdict, so that a launcher starts again.

Nothing is sent while all is well, and nothing passes through a collective: in a hang, none does.
Only in the start, where rank 0 may work alone for hours, it writes RUN/logs/alive-ATTEMPT.
No file system is waited for without end: one that does not answer makes ranks hang, too.
"""

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from mobilellama import signals
from mobilellama.distributed import World
from mobilellama.pretrain.monitoring.config import WatchdogConfig
from mobilellama.pretrain.monitoring.sign_of_life import SignOfLife
from mobilellama.progress import Progress
from mobilellama.run_folder import RunFolder

HUNG = 75
"""Exit code of a rank that left because the ranks hung (EX_TEMPFAIL of sysexits.h)."""
_LOOK_EVERY_S = 1.0
_WAIT_FOR_OTHERS_S = 30.0  # network file systems show a new file late
_MOST_WAITS = 4  # for the others' files, for the word of one of them, and for writing these


@dataclass(frozen=True, kw_only=True)
class RankState:
    """Where a rank is."""

    rank: int
    host: str
    pid: int
    phase: str
    """start, step, validation or save."""
    step: int
    """Steps done."""
    marks: int
    """How often it went on since it began; of ranks that work alike, the one behind has fewer."""
    at: str
    """What it does."""


class Watchdog:
    """This rank's; use as a context manager around an attempt."""

    def __init__(
        self, config: WatchdogConfig, *, run: RunFolder, world: World, attempt: int, step: int
    ) -> None:
        """Watch from ``__enter__`` on.

        Args:
            config: how long it waits.
            run: has the folder of the logs.
            world: this process among the ranks.
            attempt: this attempt.
            step: steps done before it.
        """
        self._config, self._world, self._attempt = config, world, attempt
        self._logs = run.path / "logs"
        self._phase, self._step, self._at = "start", step, "starting"
        self._marks = 0
        self._still_s = 0.0  # since the last mark, as far as this process ran meanwhile
        self._seen: tuple[int, int, str] = (0, 0, "")
        limits = [value for value in asdict(config).values() if value is not None]
        self._every_s = min([_LOOK_EVERY_S, *(6 * minutes for minutes in limits)])
        self._life = SignOfLife(self._logs / f"alive-{attempt:04}", world, every_s=self._every_s)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._world.is_main:
            self._logs.mkdir(exist_ok=True)
        self._life.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()
        self._thread.join()
        self._life.end(wait_s=_WAIT_FOR_OTHERS_S)

    def mark(self, at: str, *, step: int | None = None) -> None:
        """Take note that this rank goes on.

        Args:
            at: what it does now.
            step: steps done; None has not changed.
        """
        self._at = at
        self._step = self._step if step is None else step
        self._marks += 1

    def begin_steps(self) -> None:
        """Leave the start: from now on a step is waited for no longer than step_minutes."""
        self._phase = "step"

    @contextmanager
    def phase(self, phase: str) -> Iterator[None]:
        """Wait as long as another phase may take."""
        former, self._phase = self._phase, phase
        self.mark(phase)
        try:
            yield
        finally:
            self._phase = former
            self.mark("after " + phase)

    def _watch(self) -> None:
        looked_s = time.monotonic()
        while not self._closed.wait(self._every_s):
            # A process that was stopped and goes on (Ctrl-Z, fg) has not been waiting.
            now_s = time.monotonic()
            self._still_s += min(now_s - looked_s, 2 * self._every_s)
            looked_s = now_s
            if self._has_gone_on():
                self._still_s = 0.0
            minutes = getattr(self._config, f"{self._phase}_minutes")
            if minutes is not None and self._still_s > 60 * minutes:
                self._leave(minutes)

    def _has_gone_on(self) -> bool:
        seen = (self._marks, Progress.advances, self._life.seen)
        gone_on, self._seen = seen != self._seen, seen
        if gone_on and self._phase == "start":
            self._life.show(f"{seen[:2]}")
        return gone_on

    def _file(self, rank: int) -> Path:
        return self._logs / f"stacks-{self._attempt:04}-rank-{rank}.txt"

    def _leave(self, minutes: float) -> None:
        place = RankState(
            rank=self._world.rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            phase=self._phase,
            step=self._step,
            marks=self._marks,
            at=self._at,
        )
        wait_s = min(_WAIT_FOR_OTHERS_S, max(1.0, 30 * minutes))
        try:
            if not _ends_within(_MOST_WAITS * wait_s, lambda: self._tell(place, minutes, wait_s)):
                _ends_within(wait_s, lambda: self._tell_alone(place, minutes))
        finally:
            os._exit(HUNG)  # nothing else ends a thread that waits in a collective

    def _tell(self, mine: RankState, minutes: float, wait_s: float) -> None:
        """Name who did not arrive, if this is the lowest rank that can; the others wait for it."""
        try:
            dump_stacks(self._file(mine.rank), mine)
        except OSError as error:  # the others will take this rank for one that cannot tell
            where = f"rank {mine.rank} hangs at: {mine.at}"
            signals.tell(f"mobilellama: error: {where}; its stacks cannot be kept ({error})")
        self._life.end(wait_s=wait_s)
        told = self._logs / f"hang-{self._attempt:04}.txt"
        places = self._places_within(wait_s)
        if mine.rank == min(place.rank for place in [mine, *places]):
            text = describe(mine, places, self._world.size, minutes=minutes, logs=self._logs)
            with suppress(OSError):
                told.write_text(f"{text}\n")
            signals.tell(f"mobilellama: error: {text}")
        else:
            end_s = time.monotonic() + wait_s
            while not told.exists() and time.monotonic() < end_s:
                time.sleep(_LOOK_EVERY_S / 10)
        sys.stderr.flush()
        there = {place.rank for place in places}
        self._world.end_others([rank for rank in range(self._world.size) if rank not in there])

    def _tell_alone(self, mine: RankState, minutes: float) -> None:
        """Tell without the help of files."""
        text = f"{_beginning(mine, minutes)}Rank {mine.rank} ends, and does not know where the "
        text += f"others are: {self._logs} does not answer"
        signals.tell(f"mobilellama: error: {text}")

    def _places_within(self, seconds: float) -> list[RankState]:
        """Return where the ranks are that can tell, once all do or the time is up."""
        end_s = time.monotonic() + seconds
        places: dict[int, RankState] = {}
        while True:
            for rank in {*range(self._world.size)} - {*places}:
                if text := _first_line(self._file(rank)):
                    places[rank] = RankState(**json.loads(text))
            if len(places) == self._world.size or time.monotonic() > end_s:
                return [places[rank] for rank in sorted(places)]
            time.sleep(_LOOK_EVERY_S / 10)


def _ends_within(seconds: float, work: Callable[[], object]) -> bool:
    """Do some work in a thread; return whether it ended within a time."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def dump_stacks(path: Path, place: RankState) -> None:
    """Write where a rank is and the stacks of all threads of this process; whole or not at all."""
    # Not by files/temporary.py: only this process writes the file, once, and then ends. The attempt
    # and the rank in the name keep others away. Nothing is fsynced, because that may hang too.
    half = path.with_name(f".{path.name}")
    with open(half, "w") as file:
        print(json.dumps(asdict(place)), file=file, flush=True)
        faulthandler.dump_traceback(file, all_threads=True)
    half.replace(path)


def _first_line(path: Path) -> str:
    try:
        with open(path) as file:
            return file.readline()
    except OSError:
        return ""


def describe(
    mine: RankState, places: Sequence[RankState], world_size: int, *, minutes: float, logs: Path
) -> str:
    """Return who hangs, where, and what to do, as one line.

    Args:
        mine: of the rank that tells.
        places: of the ranks that can tell.
        world_size: ranks.
        minutes: that were waited for.
        logs: folder of the stacks.
    """
    missing = sorted(set(range(world_size)) - {place.rank for place in [*places, mine]})
    most = max(place.marks for place in [*places, mine])
    behind = [place for place in places if place.marks < most]
    said = _beginning(mine, minutes)
    if missing:
        said += f"Did not arrive, and cannot say where: {_ranks(missing)} (stopped, or lost with "
        said += "the node?). "
    for place in behind:
        said += f"Did not arrive: rank {place.rank} on {place.host}, process {place.pid}, which is "
        said += f"at: {place.at}. "
    if not missing and not behind and world_size > 1:
        said += "All ranks are in the same place. "
    return (
        f"{said}Stacks: {logs}/stacks-*. All ranks end without a verdict; the same command goes "
        "on from the newest checkpoint"
    )


def _beginning(mine: RankState, minutes: float) -> str:
    return (
        f"the ranks hang: nothing has happened for {minutes:g} minutes "
        f"(watchdog.{mine.phase}_minutes) after step {mine.step}, at: {mine.at}. "
    )


def _ranks(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:16])) + (", ..." if len(numbers) > 16 else "")
    return f"rank{'s' if len(numbers) > 1 else ''} {shown}"
