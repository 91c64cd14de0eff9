"""What standard error is shown on: whether it is a terminal, and how much fits into its lines."""

import os
import sys
from collections.abc import Sequence

_DEFAULT_COLUMNS = 80  # where a terminal does not tell; rich takes the same

_ERASE_LINE = "\r\x1b[2K"
_SHOW_CURSOR = "\x1b[?25h"

has_live_line = False
"""Whether the last line of the terminal is one that is drawn again and again."""


def is_terminal() -> bool:
    """Return whether stderr is a terminal that can rewrite a line."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def columns() -> int | None:
    """Return the width of the terminal behind stderr; None where there is none."""
    if not sys.stderr.isatty():
        return None
    if (told := os.environ.get("COLUMNS", "")).isdigit() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _DEFAULT_COLUMNS
    except OSError:
        return _DEFAULT_COLUMNS


def clear_line(*, leaving: bool = False) -> str:
    """Return what to write before a message, so that it takes the place of a live line.

    Args:
        leaving: whether the process may end now: a live line hides the cursor.
    """
    if not has_live_line:
        return ""
    return _ERASE_LINE + (_SHOW_CURSOR if leaving else "")


def fitted(parts: Sequence[tuple[int, str]], width: int | None) -> str:
    """Return the parts that fit into a line, two spaces apart.

    Args:
        parts: (rank, text) in the order of the line. Those of rank 0 always stay; of the others
            the lower ranks are taken first, and what does not fit is left out. An empty text is
            no part.
        width: of the line; None takes every part.
    """
    texts = [text for _, text in parts]
    left = float("inf") if width is None else width + 2
    kept: set[int] = set()
    for i in sorted(range(len(parts)), key=lambda i: parts[i][0]):  # stable: first come first
        needed = len(texts[i]) + 2
        if texts[i] and (parts[i][0] == 0 or needed <= left):
            kept.add(i)
            left -= needed
    return "  ".join(texts[i] for i in sorted(kept))
