"""What a process does about a signal that asks it to end.

    with answering("finished buckets stay; the same command goes on"):
        ...

The first signal is answered by one line at once. Then the work ends: by a KeyboardInterrupt in the
main thread or, where the work looks for itself when it can stop (``noting``), at that moment. A
second Ctrl-C leaves at once.

Python runs the handler of a signal in the main thread, between two instructions of its own. It
does not run it while that thread waits for another rank, imports torch or multiplies matrices. So
a thread gives the answer: the interpreter's own handler, which is written in C, writes the number
of the signal into a pipe at any moment (signal.set_wakeup_fd), and the thread reads it there.
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
"""What a run says of a signal that comes in its start."""
_ENDS = (signal.SIGTERM, signal.SIGINT)
_WATCH_EVERY_MS = 1000
# A launcher passes on the Ctrl-C that the terminal has already sent to every process: only
# a second one that comes later than this is the user's.
_SECOND_CTRL_C_AFTER_S = 1.0
INTERRUPTED = 130
"""Exit code after a Ctrl-C, as a shell gives it."""


class StoppedError(BaseException):
    """Work was broken off because the process was asked to stop.

    No Exception, like KeyboardInterrupt: what passes over a bad record must not pass over this.
    """


class Answer:
    """How the signals are answered that come during some work."""

    def __init__(self, line: str | None, *, notes: bool, is_main: bool) -> None:
        self.line = line
        """What the console is told; None, with `notes` false, leaves Ctrl-C to others."""
        self.reason: str | None = None
        """Who asked for the end: the name of the first signal; None while nobody has."""
        self.notes, self._is_main = notes, is_main
        self.launcher: int | None = None
        """The process that started this rank; None where its end is no reason to stop."""
        self.look: Callable[[], str | None] | None = None
        """Asked every second who else wants a stop; None where the run has not begun yet."""
        self.leaves = False
        """Whether the process leaves as soon as it has told: nothing else would end its work."""
        self._breaks = False
        self._lock = threading.RLock()  # the handler may come again in the midst of itself
        self._first_ctrl_c_s: float | None = None

    def ask(self, reason: str) -> None:
        """Take note of a request, and tell of the first one."""
        with self._lock:
            if self.reason is not None or self.line is None:
                return
            self.reason = reason
            if self._is_main:  # within the lock: who finds the reason set may leave
                again = "; once more to leave now" if reason == "SIGINT" and self.notes else ""
                by = "Ctrl-C" if reason == "SIGINT" else reason
                said = f"asked to stop by {by}" if self.notes else "interrupted"
                tell(f"mobilellama: {said}: {self.line}{again}")

    def ask_from_thread(self, reason: str) -> None:
        """Take note of a request that no signal brought, and wake the main thread for it."""
        self.ask(reason)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def watch(self) -> None:
        """Look, in the thread, for a request that no signal brings; called every second."""
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
        """Answer a signal, in the thread that waits for them."""
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
        """Do what the work wants, in the main thread: Python's handler."""
        del frame
        self.ask(signal.Signals(number).name)
        if self.leaves:
            return  # the thread ends the process
        if not self.notes:
            raise KeyboardInterrupt
        if self._breaks:
            self._breaks = False  # once: a second signal must not break off the cleaning up
            raise StoppedError

    @contextmanager
    def breaking(self) -> Iterator[None]:
        """Break off the work inside by StoppedError where a stop is asked for."""
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
        # The thread takes no signal itself: what blocks one means the whole process.
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


# Of the work at hand, last, and of the work that it is part of: signals are a process's.
_answers: list[Answer] = []


@contextmanager
def answering(line: str | None, *, noting: bool = False, is_main: bool = True) -> Iterator[Answer]:
    """Answer the signals that come meanwhile; put the former handlers back at the end.

    Args:
        line: what is kept and how to go on, or what happens now. None leaves Ctrl-C to the work
            inside, or to Python's KeyboardInterrupt.
        noting: take note of STOPS; else SIGINT and SIGTERM raise KeyboardInterrupt.
        is_main: whether this process tells; of a run's ranks one does.
    """
    answer = Answer(line, notes=noting, is_main=is_main)
    if threading.current_thread() is not threading.main_thread():
        yield answer  # signals are the main thread's
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
    # A script's shell lets what it starts with '&' ignore Ctrl-C; of a run each signal is noted.
    return {
        number: answer.handle
        for number in numbers
        if answer.notes or signal.getsignal(number) != signal.SIG_IGN
    }


def current() -> Answer | None:
    """Return how signals are answered now, by the innermost of those that note them."""
    return next((answer for answer in reversed(_answers) if answer.notes), None)


@contextmanager
def breaking_off() -> Iterator[None]:
    """Let a noted signal break off the work inside; without one who notes, change nothing.

    Raises:
        StoppedError: a stop was asked for, before or meanwhile.
    """
    answer = current()
    with answer.breaking() if answer else contextlib.nullcontext():
        yield


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Let a signal end the process during a call of C's that is long and leaves nothing behind."""
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
    """Write a line to stderr at once: no lock of logging or of the stream is waited for."""
    stream = sys.stderr
    if stream is None:
        return
    try:
        descriptor = stream.fileno()
        start = terminal.clear_line(leaving=True)  # with the ^C that a terminal shows in it
        if not start and os.isatty(descriptor):
            start = "\n"  # after the ^C
        os.write(descriptor, f"{start}{text}\n".encode(errors="replace"))
    except (OSError, ValueError):  # a stream without a file, or a terminal that has gone
        with contextlib.suppress(OSError, ValueError):
            print(text, file=stream)


def _leave_to_parent() -> None:
    """Take the default handlers in a forked process: its signals are not the parent's."""
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
    """Block SIGINT; processes that are started meanwhile have it blocked from their first moment.

    A Ctrl-C is the parent's, which ends its workers; they leave what they had finished. One that
    comes meanwhile reaches this process at the end.
    """
    # The tracker, which the first start would bring up, would lift the mask.
    resource_tracker.ensure_running()
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
