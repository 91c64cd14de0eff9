"""Handle standard input, output and error that are closed, broken or full.

1. A missing descriptor becomes /dev/null. Otherwise the next file that is opened gets its number,
   and a library that writes to "stderr" would write into that file.
2. A message that cannot be written to standard error is dropped: work must not end because of it.
3. A result that cannot be written to standard output is an error: BrokenPipeError if the reader
   has left, else an OSError that names the standard output.
"""

import io
import os
import sys
from typing import Any

STDOUT = "standard output"
"""The file name in the error of a result that cannot be written."""


def settle() -> None:
    """Make the three standard streams usable. Call it first in a command's process."""
    missing = [number for number in range(3) if not _is_open(number)]
    for number in missing:  # in rising order, because open() takes the lowest free number
        null = os.open(os.devnull, os.O_RDWR)
        assert null == number
        os.set_inheritable(null, True)  # worker processes need it too
    if sys.stdin is None:
        sys.stdin = open(0 if 0 in missing else os.devnull, closefd=0 not in missing)
    if sys.stdout is None or _is_plain(sys.stdout, 1):
        sys.stdout = _text(_Result(1, "w", closefd=False), sys.stdout)
    if sys.stderr is None or _is_plain(sys.stderr, 2):
        sys.stderr = _text(_Messages(2, "w", closefd=False), sys.stderr)


def flush() -> None:
    """Write out what was printed.

    Raises:
        OSError: it cannot be written. BrokenPipeError if nobody reads it.
    """
    sys.stdout.flush()


def drop() -> None:
    """Drop output that cannot be written. Otherwise the interpreter reports it when it exits."""
    if isinstance(getattr(sys.stdout, "buffer", None), io.BufferedWriter):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


class _Result(io.FileIO):
    """Standard output. Its errors name it."""

    def write(self, data, /) -> int:  # pyright: ignore[reportMissingParameterType]
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, STDOUT) from None


class _Messages(io.FileIO):
    """Standard error. Text that cannot be written is dropped."""

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
    """Return whether it is the interpreter's own stream, not that of a test or a notebook."""
    if stream not in (sys.__stdout__, sys.__stderr__) or not isinstance(stream, io.TextIOWrapper):
        return False
    return isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO) and (
        stream.fileno() == number
    )


def _text(raw: io.FileIO, former: Any) -> io.TextIOWrapper:
    """Return a text stream over `raw` like the one that the interpreter makes."""
    is_error = raw.fileno() == 2
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=former.encoding if former else "utf-8",
        # The terminal's encoding may lack characters of a sample's text.
        errors="backslashreplace" if is_error else "replace",
        line_buffering=is_error or raw.isatty(),
        write_through=former.write_through if former else False,
    )
