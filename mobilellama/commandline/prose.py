"""Turn docstrings into help: plain text without RST, folded to a width.

Tables and commands keep their form.
"""

import re
from collections.abc import Mapping

from mobilellama.terminal import folded

_COMMANDS = ("mobilellama ", "torchrun ", "python ")
_LAST_COLUMN = re.compile(r".*\S  +(?=\S)")
_FLAG = re.compile(r"(--[\w.]+) (?=[^-\[\s])")
_ITEM = re.compile(r"(\d+\.|[-*]) ")


def plain(text: str) -> str:
    """Return a docstring without RST, with null in place of None."""
    text = re.sub(r"(``?)([^`]+)\1", r"'\2'", text)
    return re.sub(r"\bNone\b", "null", text)


def filled(text: str, width: int) -> str:
    """Fold paragraphs to a width, and indented lines where that is possible.

    An indented command is folded with a backslash. An indented row of a table is folded within its
    last column. Any other indented line stays as it is.
    """
    lines, made = text.splitlines(), list[str]()
    while lines:
        if lines[0].startswith(" "):
            made += _indented(lines, width)
            continue
        paragraph = lines.pop(0)
        item = _ITEM.match(paragraph)
        indent = " " * item.end() if item else ""
        while paragraph and lines and _is_rest(lines[0], indent):
            paragraph += " " + lines.pop(0).strip()
        made += folded(paragraph, width, "", indent) or [""]
    return "\n".join(made)


def _is_rest(line: str, indent: str) -> bool:
    """Return whether a line continues a paragraph whose other lines have this indent."""
    rest = line.removeprefix(indent)
    return line.startswith(indent) and rest[:1].strip() != "" and not _ITEM.match(line)


def listed(names: Mapping[str, str], width: int) -> list[str]:
    """Return lines of names and what they mean, in two columns, folded to a width.

    Args:
        names: name -> what it means. A name may have columns of its own.
        width: the greatest length of a line.
    """
    widest = max(map(len, names))
    lines: list[str] = []
    for name, meaning in names.items():
        lines += folded(meaning, width, f"  {name:<{widest}}  ", " " * (widest + 4))
    return lines


def _indented(lines: list[str], width: int) -> list[str]:
    """Take an indented line and the lines that continue it. Return them folded."""
    line = lines.pop(0)
    body = line.strip().removesuffix(" \\")
    indent = line[: len(line) - len(line.lstrip())]
    column = _LAST_COLUMN.match(body)
    if not column and not body.startswith(_COMMANDS):
        return [line]
    others = indent + " " * (column.end() if column else 4)
    while lines and _goes_on(lines[0], others):
        body += " " + lines.pop(0).strip().removesuffix(" \\")
    if column:
        return folded(body, width, indent, others)
    # A flag and its value stay on one line.
    whole = folded(_FLAG.sub("\\1\0", body), width - 2, indent, others)
    return [*(f"{one} \\".replace("\0", " ") for one in whole[:-1]), whole[-1].replace("\0", " ")]


def _goes_on(line: str, indent: str) -> bool:
    """Return whether a line has exactly this indent and is not a row of a table."""
    rest = line.removeprefix(indent)
    return len(rest) < len(line) and not rest.startswith(" ") and not _LAST_COLUMN.match(rest)
