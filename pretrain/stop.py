"""Asking a run to stop: signals, a file, a wall-clock limit. Handlers only set a flag."""

import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
# A launcher passes on the Ctrl-C that the terminal has already sent to every process: only
# a second one that comes later than this is the user's.
_SECOND_CTRL_C_AFTER_S = 1.0


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
        self.reason: str | None = None
        self._stop_files = [path for path in stop_files if path]
        self._deadline_s = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._first_sigint_s: float | None = None

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Install the handlers, and put the former ones back at the end."""
        former = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT:
            now_s = time.monotonic()
            if self._first_sigint_s is None:
                self._first_sigint_s = now_s
            elif now_s - self._first_sigint_s > _SECOND_CTRL_C_AFTER_S:
                os.write(2, b"\nsecond Ctrl-C: leaving at once, without a checkpoint\n")
                os._exit(130)
        self.reason = self.reason or signal.Signals(number).name

    def requested(self) -> bool:
        """Return whether a stop was asked for; called once a step."""
        if self.reason is None and self._deadline_s and time.monotonic() > self._deadline_s:
            self.reason = "the wall-clock limit run.max_hours"
        if self.reason is None:
            self.reason = next(
                (f"the file {path}" for path in self._stop_files if path.exists()), None
            )
        return self.reason is not None
