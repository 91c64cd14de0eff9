"""Chat templates of foreign folders, rendered where a loop for ever or 3 GB of text does no harm.

A template is a program: jinja's sandbox keeps it from files, not from time and memory, and much
of it runs inside one call of C (``"a" * 10**10``, ``|center``, a sum over a product of ranges),
where no thread can be stopped. So a process of its own renders. It is forked once, at the first
conversation, and asked for each one through a pipe; limits are the kernel's:

    processor time   RLIMIT_CPU, moved on for each conversation
    memory           RLIMIT_AS, above what the process has when it begins
    size             of what comes back, looked at before it is sent

One that is stopped is replaced at the next conversation.
"""

import contextlib
import os
import resource
import signal
import threading
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Protocol, TypeAlias

from mobilellama.config import one_line

_GIB = 1 << 30
_MOST_SAID = 2000  # characters of a template's own message
_WAIT_S = 12  # seconds on the clock for each of processor time: a machine may be busy


@dataclass(frozen=True, kw_only=True)
class RenderLimits:
    """What one conversation may take."""

    cpu_s: int = 10
    """Seconds of processor time."""
    memory_bytes: int = _GIB
    """Memory beside what the process has at its start."""
    characters: int = 1 << 26
    """Length of the text."""


class RenderLimitError(Exception):
    """A template went over a limit; the message says which, as ``took more than ...``."""


class TemplateRefusalError(Exception):
    """A template refused a conversation, in its own words."""


class TemplateBrokenError(Exception):
    """A template is not Jinja; the message says where."""


Rendered: TypeAlias = str | list[int]
"""A conversation's text, or its ids."""


class Render(Protocol):
    """What renders a conversation, as ``apply_chat_template`` does."""

    def __call__(self, messages: list[dict[str, str]], /, **options: bool) -> Rendered:
        """Return the text, or the ids where the options ask for them."""
        ...


_ERRORS = {kind.__name__: kind for kind in (
    RenderLimitError, TemplateRefusalError, TemplateBrokenError, NotImplementedError, ValueError,
)}  # fmt: skip


class TemplateProcess:
    """A process that calls one function, within limits, for each conversation.

    Args:
        render: the function; it is called in the process, with what was loaded before.
        limits: what a call may take.
    """

    def __init__(self, render: Render, limits: RenderLimits | None = None) -> None:
        self._render, self._limits = render, limits or RenderLimits()
        self._running: tuple[ForkProcess, Connection] | None = None
        self._lock = threading.Lock()

    def call(self, messages: list[dict[str, str]], options: dict[str, bool]) -> Rendered:
        """Return what the function gives for a conversation.

        Raises:
            RenderLimitError: it went over a limit, and was stopped.
            TemplateRefusalError: the template refuses the conversation.
            TemplateBrokenError: it is not Jinja.
            NotImplementedError: transformers cannot do it with these options.
            ValueError: likewise.
        """
        with self._lock:
            if self._running is None or not self._running[0].is_alive():
                self._running = self._start()
            process, pipe = self._running
            try:
                pipe.send((messages, options))
                if not pipe.poll(self._limits.cpu_s * _WAIT_S):
                    raise self._too_slow()
                kind, answer = pipe.recv()
            except (EOFError, OSError):
                raise self._died(process) from None
            except BaseException:  # a Ctrl-C among them: the answer would be taken for the next's
                self.close()
                raise
        if kind in _ERRORS:
            raise _ERRORS[kind](answer)
        return answer

    def close(self) -> None:
        """End the process; another call starts one."""
        if self._running is not None:
            process, pipe = self._running
            process.kill()
            process.join()
            pipe.close()
            self._running = None

    def _start(self) -> tuple[ForkProcess, Connection]:
        context = get_context("fork")  # of a process that has loaded transformers already
        here, there = context.Pipe()
        arguments = (there, here, self._render, self._limits)
        process = context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        there.close()
        return process, here

    def _too_slow(self) -> RenderLimitError:
        return RenderLimitError(f"took more than {self._limits.cpu_s} s")

    def _died(self, process: ForkProcess) -> RenderLimitError:
        process.join()
        code = process.exitcode
        self.close()
        if code == -signal.SIGXCPU:
            return self._too_slow()
        gib = self._limits.memory_bytes / _GIB
        return RenderLimitError(f"took more than {gib:g} GiB of memory, or ended its process")


def _serve(pipe: Connection, other_end: Connection, render: Render, limits: RenderLimits) -> None:
    """Answer calls until the other process is gone."""
    other_end.close()  # else its end would never be seen
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the other process
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + limits.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with contextlib.suppress(EOFError, OSError):
        while True:
            messages, options = pipe.recv()
            used = resource.getrusage(resource.RUSAGE_SELF)
            until = int(used.ru_utime + used.ru_stime) + limits.cpu_s + 1
            resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))
            pipe.send(_answer(render, messages, options, limits))


def _answer(
    render: Render,
    messages: list[dict[str, str]],
    options: dict[str, bool],
    limits: RenderLimits,
) -> tuple[str, Rendered]:
    """Return the name of an error and its message, or an empty name and the outcome."""
    from jinja2 import TemplateError, TemplateSyntaxError

    try:
        made = render(messages, **options)
        if len(made) > limits.characters:
            what = f"wrote more than {limits.characters:,} characters"
            return RenderLimitError.__name__, what
        return "", made
    except MemoryError:
        gib = limits.memory_bytes / _GIB
        return RenderLimitError.__name__, f"took more than {gib:g} GiB of memory"
    except TemplateSyntaxError as error:
        said = one_line(Exception(str(error.message)[:_MOST_SAID])).rstrip(".")
        return TemplateBrokenError.__name__, f"line {error.lineno}: {said}"
    except (NotImplementedError, ValueError) as error:
        kind = NotImplementedError if isinstance(error, NotImplementedError) else ValueError
        return kind.__name__, str(error)[:_MOST_SAID]
    except TemplateError as error:
        return TemplateRefusalError.__name__, one_line(Exception(str(error)[:_MOST_SAID]))
    except Exception as error:  # whatever a program meets: a type, a key, a division, ...
        said = one_line(Exception(f"{type(error).__name__}: {error}"[:_MOST_SAID]))
        return TemplateRefusalError.__name__, said
