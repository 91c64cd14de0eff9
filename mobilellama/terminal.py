"""Facts about the terminal: whether standard error is one, and the width of lines."""

import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

SHOWN_WIDTH = "MOBILELLAMA_WIDTH"
"""Variable: the width of the terminal in which a launcher shows this process's log."""
_DEFAULT_COLUMNS = 80  # if the terminal does not tell; rich uses the same

# What would move the cursor or colour the terminal; newline and tab stay.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ERASE_LINE = "\r\x1b[2K"
_SHOW_CURSOR = "\x1b[?25h"

has_live_line = False
"""Whether the last line of the terminal is one that is redrawn, such as a progress bar."""


def is_terminal() -> bool:
    """Return whether stderr is a terminal that can rewrite a line."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def columns(stream: TextIO | None = None) -> int | None:
    """Return the width of a stream's terminal; None if it is no terminal.

    Args:
        stream: None is stderr.
    """
    shown: TextIO = sys.stderr if stream is None else stream
    if not shown.isatty():
        return None
    if width := _told_columns():
        return width
    try:
        return os.get_terminal_size(shown.fileno()).columns or _DEFAULT_COLUMNS
    except OSError:
        return _DEFAULT_COLUMNS


def result_columns() -> int | None:
    """Return the width of a command's result: COLUMNS, else that of the terminal of stdout.

    None: the result goes into a pipe or a file, and its lines have any length.
    """
    return _told_columns() or columns(sys.stdout)


def shows_colours() -> bool:
    """Return whether a command's result may have colours.

    It may on a terminal, unless the user has set NO_COLOR (https://no-color.org).
    """
    is_plain = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return sys.stdout.isatty() and not is_plain and not os.environ.get("NO_COLOR")


def _told_columns() -> int | None:
    """Return the value of COLUMNS. None if it is unset or not a width."""
    width = os.environ.get("COLUMNS", "")
    return int(width) or None if width.isdigit() else None


def shown_width() -> int | None:
    """Return the width of the terminal that shows this process's messages; None if none does.

    It is stderr, or the terminal of a launcher that shows the log.
    """
    width = os.environ.get(SHOWN_WIDTH, "")
    return columns() or (int(width) if width.isdigit() else None)


def folded(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    """Return the lines of a text, broken only at blanks.

    Args:
        text: one paragraph.
        width: the greatest length of a line.
        first: the prefix of the first line.
        others: the prefix of the other lines.
    """
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=others,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def wrapped(text: str, width: int | None) -> str:
    """Return a text whose lines are broken at blanks where they do not fit.

    Args:
        text: one or more lines.
        width: of a line. None leaves the text as it is.
    """
    if width is None:
        return text
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if len(line) > width:  # others keep their tabs
            lines[i] = "\n".join(folded(line, width, others=" " * 4))
    return "\n".join(lines)


def without_controls(text: str) -> str:
    """Return a text with U+FFFD for each control character; newlines and tabs stay."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def clear_line(*, leaving: bool = False) -> str:
    """Return the text to write before a message, so that the message replaces a live line.

    Args:
        leaving: whether the process may end now. Then the cursor, which a live line hides, is
            shown again.
    """
    if not has_live_line:
        return ""
    return _ERASE_LINE + (_SHOW_CURSOR if leaving else "")


def fitted(parts: Sequence[tuple[int, str]], width: int | None) -> str:
    """Return the parts that fit into a line, two spaces apart.

    Args:
        parts: (rank, text) in the order of the line. Parts of rank 0 are always kept. Others are
            kept if they fit, lower ranks first. Empty texts are ignored.
        width: of the line. None keeps every part.
    """
    texts = [text for _, text in parts]
    left = float("inf") if width is None else width + 2
    kept: set[int] = set()
    for i in sorted(range(len(parts)), key=lambda i: parts[i][0]):  # stable: keeps their order
        needed = len(texts[i]) + 2
        if texts[i] and (parts[i][0] == 0 or needed <= left):
            kept.add(i)
            left -= needed
    return "  ".join(texts[i] for i in sorted(kept))
