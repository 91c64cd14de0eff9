"""Standard input, output and error that are closed, broken or full.

A missing descriptor becomes /dev/null before any file can get its number: a library that writes
to "stderr" would write into that file. Messages that cannot be told are dropped, since no work
should end for want of a listener. A result that cannot be told is an error: BrokenPipeError where
its reader has left, else an OSError that names the standard output.
"""

import io
import os
import sys
from typing import Any

STDOUT = "standard output"
"""The file name in the error of a result that cannot be told."""


def settle() -> None:
    """Make the three standard streams usable; called first in a command's process."""
    missing = [number for number in range(3) if not _is_open(number)]
    for number in missing:  # ascending: each gets the lowest free number, which is its own
        null = os.open(os.devnull, os.O_RDWR)
        assert null == number
        os.set_inheritable(null, True)  # by worker processes
    if sys.stdin is None:
        sys.stdin = open(0 if 0 in missing else os.devnull, closefd=0 not in missing)
    if sys.stdout is None or _is_plain(sys.stdout, 1):
        sys.stdout = _text(_Result(1, "w", closefd=False), sys.stdout)
    if sys.stderr is None or _is_plain(sys.stderr, 2):
        sys.stderr = _text(_Messages(2, "w", closefd=False), sys.stderr)


def flush() -> None:
    """Hand over what was printed.

    Raises:
        OSError: it cannot be; BrokenPipeError where nobody reads it.
    """
    sys.stdout.flush()


def drop() -> None:
    """Let go of what cannot be handed over, or the interpreter would complain of it at its end."""
    if isinstance(getattr(sys.stdout, "buffer", None), io.BufferedWriter):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


class _Result(io.FileIO):
    """Standard output: its errors name it."""

    def write(self, data, /) -> int:  # pyright: ignore[reportMissingParameterType]
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, STDOUT) from None


class _Messages(io.FileIO):
    """Standard error: what cannot be written is dropped."""

    def write(self, data, /) -> int:  # pyright: ignore[reportMissingParameterType]
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _is_plain(stream: object, number: int) -> bool:
    """Whether it is the interpreter's own stream, not one that a test or a notebook put there."""
    if stream not in (sys.__stdout__, sys.__stderr__) or not isinstance(stream, io.TextIOWrapper):
        return False
    return isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO) and (
        stream.fileno() == number
    )


def _text(raw: io.FileIO, former: Any) -> io.TextIOWrapper:
    """Return the text stream over `raw` that the interpreter would have made."""
    is_error = raw.fileno() == 2
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=former.encoding if former else "utf-8",
        # A sample's text may not fit the terminal.
        errors="backslashreplace" if is_error else "replace",
        line_buffering=is_error or raw.isatty(),
        write_through=former.write_through if former else False,
    )
