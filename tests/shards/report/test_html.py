from html.parser import HTMLParser

import pytest

from mobilellama.shards.report.html import Html, element, escaped, joined, table


class Parsed(HTMLParser):
    """The tags, attributes and text that a reader of HTML finds."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = [
    "<script>alert(1)</script>", "</p><b>", "\"><img src=x onerror='a'>", "&lt;b&gt; &amp;", "<!--",
    "]]>", "&#60;b&#62;", "' onload=\"a", "<\u2028b>",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_is_neither_markup_nor_leaves_its_attribute(text: str) -> None:
    parsed = Parsed(element("p", text, title=text))
    assert parsed.tags == [("p", [("title", text)])]
    assert parsed.text == text


def test_what_utf8_or_a_page_cannot_hold_becomes_a_replacement_character() -> None:
    assert escaped("a\ud800b\x00\x1bc\n\td\U0001f600") == "a\ufffdb\ufffd\ufffdc\n\td\U0001f600"
    assert escaped("\ud83d\ude00") == "\U0001f600"


def test_markup_is_put_in_as_it_is_and_only_once_escaped() -> None:
    inner = element("b", "a < b")
    assert joined("1 < 2 ", inner) == "1 &lt; 2 <b>a &lt; b</b>"
    assert element("p", inner, class_="x", stroke_width=1.5) == (
        '<p class="x" stroke-width="1.5"><b>a &lt; b</b></p>'
    )
    assert isinstance(joined("a"), Html) and escaped(inner) is inner


def test_a_table_has_its_heading_and_its_columns_alignment() -> None:
    made = table([["name", "count", "why"], ["a", "1", "x"]], text_columns=(0, 2))
    tags = [(tag, dict(attributes).get("class")) for tag, attributes in Parsed(made).tags]
    assert tags == [
        ("div", "table"), ("table", None), ("thead", None), ("tr", None),
        ("th", "text"), ("th", "number"), ("th", "text"), ("tbody", None), ("tr", None),
        ("td", "text"), ("td", "number"), ("td", "text"),
    ]  # fmt: skip
