"""Asking a run to stop: signals, a file, a wall-clock limit. Each only sets a flag."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mobilellama import launcher, signals
from mobilellama.config import one_line

log = logging.getLogger(__name__)

SIGNALS = signals.STOPS
SAVING = "saving at the end of this step"


class StopRequest:
    """Whether, and why, this process has been asked to stop."""

    def __init__(
        self, *, stop_files: Sequence[Path | None] = (), max_hours: float | None = None
    ) -> None:
        """Watch for a stop.

        Args:
            stop_files: the existence of any is a request; none where another rank looks.
            max_hours: wall-clock limit from now; None is none.
        """
        self._stop_files = [path for path in stop_files if path]
        self.limit(max_hours)
        self._reason: str | None = None
        self._answer: signals.Answer | None = None

    def limit(self, max_hours: float | None) -> None:
        """Ask for a stop so many hours from now; None is no limit."""
        self._deadline_s = None if max_hours is None else time.monotonic() + 3600 * max_hours

    @contextmanager
    def handling_signals(self, line: str = SAVING, *, is_main: bool = True) -> Iterator[None]:
        """Take note of the signals, and put the former handlers back at the end.

        Args:
            line: what the console is told at once when the first one comes.
            is_main: whether this process tells.
        """
        with signals.answering(line, noting=True, is_main=is_main) as self._answer:
            self._answer.look = self.look
            yield

    def now(self, line: str) -> None:
        """Set what the console is told if a signal comes from now on."""
        if self._answer:
            self._answer.line = line

    @property
    def reason(self) -> str | None:
        """What asked first: a preemption, a Ctrl-C, ...; None while nothing has."""
        asked = self._answer and self._answer.reason
        if asked and self._reason is None:
            self._reason = asked
            if asked.startswith("SIG"):
                self._reason = _cause(lambda: launcher.signal_cause(asked), f"a signal ({asked})")
        return self._reason

    def look(self) -> str | None:
        """Return the request that a file or the clock makes, None where there is none."""
        if self._deadline_s and time.monotonic() > self._deadline_s:
            return "the end of its time (run.max_hours)"
        with suppress(OSError):  # a file system that does not answer asks for nothing
            made = next((path for path in self._stop_files if path.exists()), None)
            if made:
                return _cause(lambda: launcher.stop_file_cause(made), f"the file {made}")
        return None

    def requested(self) -> bool:
        """Return whether a stop was asked for; called once a step."""
        if self.reason is None:
            self._reason = self.look()
        return self.reason is not None


def _cause(find: Callable[[], str], plain: str) -> str:
    """Return the cause of a stop; `plain` if it is not found. No error of that may end the run."""
    try:
        return find()
    except Exception as error:
        log.warning("the cause of the stop is unknown (%s)", one_line(error))
        return plain
