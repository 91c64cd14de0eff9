"""The tables of a page of docs/: what a test must find to be true."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """Return the rows of the table below a heading: first cell -> the other cells."""
    section = (DOCS / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {first: rest for first, *rest in cells}


def words(cell: str) -> str:
    """Return what stands between the backticks of a cell."""
    found = re.fullmatch("`(.+)`", cell)
    assert found, cell
    return found[1]
