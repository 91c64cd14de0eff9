"""Tables as text for a terminal: rows of cells, and lines of counts with a remark."""

from collections.abc import Collection, Sequence


def aligned(rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    """Return rows of cells as lines, each column as wide as its widest cell.

    Args:
        rows: of equally many cells, the heading's first.
        left: columns that are set to the left; the others, of numbers, are set to the right.
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
    """Return ``name   1,234  remark``; such lines stand well below one another."""
    return f"{name:<20} {count:>14,}  {remark}".rstrip()


def below_remarks(text: str) -> str:
    """Return a line that stands below the remarks of ``counted``."""
    return f"{'':<37}{text}".rstrip()
