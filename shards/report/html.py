"""Make HTML of which no text can become markup.

A plain string is text: it is escaped when it is put into an element. ``Html`` is markup already,
and only ``element`` makes it. So a document's text can neither open an element nor leave an
attribute, whatever stands in it.
"""

import html
from collections.abc import Sequence

from mobilellama.terminal import without_controls


class Html(str):
    """Markup; it is put into other elements as it is."""


def escaped(text: str) -> Html:
    """Return text as markup: a string as its characters, and markup unchanged.

    Control characters, and halves of surrogate pairs, which UTF-8 cannot hold, become U+FFFD.
    """
    if isinstance(text, Html):
        return text
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return Html(html.escape(without_controls(whole)))


def joined(*parts: str) -> Html:
    """Return parts one after another: strings as text, markup as it is."""
    return Html("".join(map(escaped, parts)))


def element(name: str, *children: str, **attributes: str | float) -> Html:
    """Return an element.

    Args:
        name: such as "td".
        children: strings, which are text, and markup.
        attributes: by name; "_" stands for "-", and "class_" for "class".
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(_number(value))}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{written}>{joined(*children)}</{name}>")


def table(rows: Sequence[Sequence[str]], *, text_columns: Sequence[int] = (0,)) -> Html:
    """Return a table that scrolls sideways where it is wider than the page.

    Args:
        rows: all with the same number of cells; the first is the heading.
        text_columns: columns that are aligned left. The others are aligned right, as numbers.
    """
    heading, *others = rows

    def line(kind: str, row: Sequence[str]) -> Html:
        cells = (
            element(kind, cell, class_="text" if i in text_columns else "number")
            for i, cell in enumerate(row)
        )
        return element("tr", *cells)

    head = element("thead", line("th", heading))
    body = element("tbody", *(line("td", row) for row in others))
    return element("div", element("table", head, body), class_="table")


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.10g}"
