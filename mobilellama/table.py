"""Tables as text for a terminal: rows of cells, and lines of counts with a remark."""

from collections.abc import Collection, Sequence


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


def counted(name: str, count: int, remark: str = "") -> str:
    """Return ``name   1,234  remark``. The columns of such lines are aligned."""
    return f"{name:<20} {count:>14,}  {remark}".rstrip()


def below_remarks(text: str) -> str:
    """Return a line whose text begins in the column of the remarks of ``counted``."""
    return f"{'':<37}{text}".rstrip()
