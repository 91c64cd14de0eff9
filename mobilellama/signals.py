"""Handle signals that ask a process to end.

    with answering("finished buckets stay; the same command goes on"):
        ...

1. The first signal is answered by one line at once.
2. Then the work ends: by a KeyboardInterrupt in the main thread, or, with ``noting``, when the work
   itself checks whether to stop.
3. A second Ctrl-C exits at once.

Python runs a signal handler in the main thread, between two Python instructions. It does not run
while that thread waits for another rank, imports torch or multiplies matrices. So another thread
prints the line. The interpreter's own handler, written in C, writes the number of the signal into a
pipe at any time (signal.set_wakeup_fd), and the thread reads the pipe.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import resource_tracker
from types import FrameType

from mobilellama import terminal

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""The signals that ask a run to save and stop."""
BEFORE_STEPS = "stopping before the first step"
"""The answer of a run to a signal before its first step."""
_ENDS = (signal.SIGTERM, signal.SIGINT)
_WATCH_EVERY_MS = 1000
# The terminal sends Ctrl-C to every process, and a launcher sends the same one again. A second
# Ctrl-C counts as the user's only if it comes later than this.
_SECOND_CTRL_C_AFTER_S = 1.0
INTERRUPTED = 130
"""Exit code after Ctrl-C, the same as a shell's."""


class StoppedError(BaseException):
    """Work was ended early because the process was asked to stop.

    It is not an Exception, like KeyboardInterrupt: code that skips bad records must not catch it.
    """


class Answer:
    """How signals are handled during some work."""

    def __init__(self, line: str | None, *, notes: bool, is_main: bool) -> None:
        self.line = line
        """The line to print. None, with `notes` false, leaves Ctrl-C to other code."""
        self.reason: str | None = None
        """The name of the first signal, or the cause of another request. None: there is none."""
        self.notes, self._is_main = notes, is_main
        self.launcher: int | None = None
        """The process that started this rank. None: its end is no reason to stop."""
        self.look: Callable[[], str | None] | None = None
        """Is called every second, and returns the cause if a stop is wanted. None before the run
        begins."""
        self.leaves = False
        """Whether the process exits as soon as the line is printed."""
        self._breaks = False
        self._lock = threading.RLock()  # the handler can interrupt itself
        self._first_ctrl_c_s: float | None = None

    def ask(self, reason: str) -> None:
        """Note a request to stop. Print a line for the first one."""
        with self._lock:
            if self.reason is not None or self.line is None:
                return
            self.reason = reason
            if self._is_main:  # inside the lock: code that sees the reason may exit the process
                again = "; once more to leave now" if reason == "SIGINT" and self.notes else ""
                by = "Ctrl-C" if reason == "SIGINT" else reason
                said = f"asked to stop by {by}" if self.notes else "interrupted"
                tell(f"mobilellama: {said}: {self.line}{again}")

    def ask_from_thread(self, reason: str) -> None:
        """Note a request that did not come by a signal, and wake the main thread."""
        self.ask(reason)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def watch(self) -> None:
        """Check for a request that does not come by a signal. The thread calls it every second."""
        orphaned = self.launcher is not None and os.getppid() != self.launcher
        if orphaned and self.look is None:
            if self._is_main:
                tell("mobilellama: its launcher has ended: leaving; nothing was begun")
            os._exit(1)
        if self.reason is None:
            reason = "the end of its launcher" if orphaned else self.look and self.look()
            if reason:
                self.ask_from_thread(reason)

    def hear(self, number: int) -> None:
        """Answer a signal, in the thread that waits for signals."""
        if number == signal.SIGINT and self.line is not None:
            now_s = time.monotonic()
            if self._first_ctrl_c_s is None:
                self._first_ctrl_c_s = now_s
            elif now_s - self._first_ctrl_c_s > _SECOND_CTRL_C_AFTER_S:
                if self._is_main:
                    saved = ", without a checkpoint" if self.notes else ""
                    tell(f"mobilellama: second Ctrl-C: leaving at once{saved}")
                os._exit(INTERRUPTED)
        self.ask(signal.Signals(number).name)
        if self.leaves:
            os._exit(128 + number)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """End the work in the way that it wants. Python calls this handler in the main thread."""
        del frame
        self.ask(signal.Signals(number).name)
        if self.leaves:
            # Not left to the thread: on a busy machine it may look when `leaves` is over.
            os._exit(128 + number)
        if not self.notes:
            raise KeyboardInterrupt
        if self._breaks:
            self._breaks = False  # once: a second signal must not interrupt the clean-up
            raise StoppedError

    @contextmanager
    def breaking(self) -> Iterator[None]:
        """Raise StoppedError in the work inside if a stop is asked for."""
        if self.reason is not None:
            raise StoppedError
        self._breaks = True
        try:
            yield
        finally:
            self._breaks = False


class _Listener:
    """The thread that reads signals from the pipe."""

    def __init__(self) -> None:
        _take_care_of_forks()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._former = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        # The thread blocks all signals. Otherwise it would take one that the main thread blocks.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        while True:
            number = os.read(self._read, 1)[0] if poll.poll(_WATCH_EVERY_MS) else None
            if number == 0:
                return
            answer = _answers[-1] if _answers else None
            if answer is None:
                continue
            if number is None:
                if answer.notes:
                    answer.watch()
            elif number in (STOPS if answer.notes else _ENDS):
                answer.hear(number)

    def close(self) -> None:
        signal.set_wakeup_fd(self._former)
        os.write(self._write, b"\0")
        self._thread.join()
        os.close(self._read)
        os.close(self._write)


# One for each nested piece of work, the innermost last. Signals belong to the whole process.
_answers: list[Answer] = []


@contextmanager
def answering(line: str | None, *, noting: bool = False, is_main: bool = True) -> Iterator[Answer]:
    """Answer signals during the work inside, and restore the former handlers at the end.

    Args:
        line: what is kept and how to continue, or what happens now. None leaves Ctrl-C to the work
            inside, or to Python's KeyboardInterrupt.
        noting: note STOPS, and let the work stop by itself. Otherwise SIGINT and SIGTERM raise
            KeyboardInterrupt.
        is_main: whether this process prints the line. Of a run's ranks, one does.
    """
    answer = Answer(line, notes=noting, is_main=is_main)
    if threading.current_thread() is not threading.main_thread():
        yield answer  # only the main thread can set handlers
        return
    outer = _answers[-1] if _answers else None
    if outer and outer.notes and noting:
        answer.reason = outer.reason  # told already
        answer.launcher = outer.launcher
    listener = None if _answers else _Listener()
    _answers.append(answer)
    former = {number: signal.signal(number, take) for number, take in _handlers(answer).items()}
    try:
        yield answer
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        _answers.remove(answer)
        if outer and outer.notes == answer.notes:
            outer.reason = outer.reason or answer.reason
        if listener:
            listener.close()


def _handlers(answer: Answer) -> dict[signal.Signals, Callable[[int, FrameType | None], object]]:
    if answer.line is None and not answer.notes:
        return {signal.SIGINT: signal.default_int_handler}
    numbers = STOPS if answer.notes else _ENDS
    # A shell script makes a command that it starts with '&' ignore Ctrl-C. Keep that, except for a
    # run, which notes every signal.
    return {
        number: answer.handle
        for number in numbers
        if answer.notes or signal.getsignal(number) != signal.SIG_IGN
    }


def current() -> Answer | None:
    """Return the innermost answer that notes signals; None if there is none."""
    return next((answer for answer in reversed(_answers) if answer.notes), None)


@contextmanager
def breaking_off() -> Iterator[None]:
    """End the work inside if a signal is noted. Without ``noting`` outside, do nothing.

    Raises:
        StoppedError: a stop was asked for, before or during the work.
    """
    answer = current()
    with answer.breaking() if answer else contextlib.nullcontext():
        yield


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Let a signal end the process at once, during a long call of C code that writes nothing."""
    if not _answers:
        yield
        return
    answer = _answers[-1]
    answer.leaves = True
    try:
        yield
    finally:
        answer.leaves = False


def tell(text: str) -> None:
    """Write a line to stderr at once, without waiting for a lock of logging or of the stream."""
    stream = sys.stderr
    if stream is None:
        return
    try:
        descriptor = stream.fileno()
        start = terminal.clear_line(leaving=True)  # also clears the ^C that the terminal prints
        if not start and os.isatty(descriptor):
            start = "\n"  # after the ^C
        os.write(descriptor, f"{start}{text}\n".encode(errors="replace"))
    except (OSError, ValueError):  # a stream without a file, or a closed terminal
        with contextlib.suppress(OSError, ValueError):
            print(text, file=stream)


def _leave_to_parent() -> None:
    """Set the default handlers in a forked process: the parent's answers are not for it."""
    if _answers:
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(-1)
            for number in STOPS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _answers.clear()


@cache
def _take_care_of_forks() -> None:
    os.register_at_fork(after_in_child=_leave_to_parent)


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """Block SIGINT, so that processes that start inside have it blocked from the beginning.

    The parent handles Ctrl-C and ends its workers. A Ctrl-C during the block reaches this process
    at its end.
    """
    # The first start of a process also starts the resource tracker, which would unblock SIGINT.
    resource_tracker.ensure_running()
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
