"""Tables as text for a terminal: rows of cells, and lines of counts with a remark.

They are not rich's: where there is little room, its tables cut or wrap cells, and ours leave out
whole columns and say so. rich also takes a tenth of a second to import.
"""

import textwrap
from collections.abc import Collection, Sequence

_NARROWEST = 8  # columns of a cell that is wrapped


def aligned(rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    """Return rows of cells as lines. Each column is as wide as its widest cell.

    Args:
        rows: all with the same number of cells; the heading first.
        left: columns that are aligned left. The others are aligned right, as numbers are.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def narrowed(
    rows: Sequence[Sequence[str]], width: int | None, *, spare: Sequence[str]
) -> list[list[str]]:
    """Return rows whose lines fit into a width, if that can be.

    Columns to spare are left out as far as needed. Then the cells of the widest column are wrapped.

    Args:
        rows: as ``aligned`` takes them.
        width: of a line. None leaves the rows as they are.
        spare: the headings of columns to leave out, the first one first.
    """
    shown = [list(row) for row in rows]
    if width is None:
        return shown
    for heading in spare:
        if _width(shown) <= width:
            break
        if heading in shown[0]:
            i = shown[0].index(heading)
            shown = [row[:i] + row[i + 1 :] for row in shown]
    too_wide = _width(shown) - width
    if too_wide <= 0:
        return shown
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    widest = widths.index(max(widths))
    return [
        [cell if j == widest else (cells if not n else "") for j, cells in enumerate(row)]
        for row in shown
        for n, cell in enumerate(
            textwrap.wrap(row[widest], max(_NARROWEST, widths[widest] - too_wide)) or [""]
        )
    ]


def _width(rows: Sequence[Sequence[str]]) -> int:
    return max(map(len, aligned(rows, left=()).split("\n")))


def counted(name: str, count: int, remark: str = "") -> str:
    """Return ``name   1,234  remark``. The columns of such lines are aligned."""
    return f"{name:<20} {count:>14,}  {remark}".rstrip()


def below_remarks(text: str) -> str:
    """Return a line whose text begins in the column of the remarks of ``counted``."""
    return f"{'':<37}{text}".rstrip()
