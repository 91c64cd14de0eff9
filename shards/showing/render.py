"""Samples, documents and matches as text to print, with colours on a terminal.

In colours, every second token is cyan, so that the tokens can be told apart; supervised text is
green; rules and what is held out stand out. Without colours, supervised text stands in
\u27e6 \u27e7.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mobilellama.shards.manifest import ManifestRow
from mobilellama.shards.showing.parts import DocumentPart
from mobilellama.shards.showing.sample import SampleDescription
from mobilellama.shards.showing.search import Searched, TextMatch
from mobilellama.terminal import without_controls

_RULE_WIDTH = 100
_Style = Literal["rule", "heldout", "token", "supervised", "supervised token", "match"]
_CODES: dict[_Style, str] = {
    "rule": "1", "heldout": "1;33", "token": "36", "supervised": "32", "supervised token": "92",
    "match": "1;31",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the text is printed on."""

    width: int = _RULE_WIDTH
    """Columns of a line."""
    is_coloured: bool = False

    def paint(self, text: str, style: _Style | None) -> str:
        """Return the text in a colour, if there are colours."""
        if not self.is_coloured or style is None or not text:
            return text
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


PLAIN = Page()


def render(description: SampleDescription, page: Page = PLAIN) -> str:
    """Return the sample as text to print; each document begins under a ruled line."""
    span, source_range = description.span, description.source_range
    lines = [
        f"subset   {description.subset}, "
        f"sample {description.sample:,} of {description.num_samples:,}",
        f"bucket   {span.bucket}, tokens {_range(span.start, span.start + span.length)} "
        f"of {span.bucket_tokens:,}",
        f"source   {description.source}, {description.unit} {_range(*source_range)}",
    ]
    for part in description.parts:
        lines += ["", _rule(part, page), _body(part, page)]
    return "\n".join(lines)


def render_document(bucket: str, row: ManifestRow, part: DocumentPart, page: Page = PLAIN) -> str:
    """Return a document as text to print.

    Args:
        bucket: ``SUBSET/NNNNN``.
        row: its row of the manifest.
        part: the document.
        page: what it is printed on.
    """
    lines = [
        f"bucket   {bucket}, {row['documents']:,} documents, {row['tokens']:,} tokens",
        f"source   {row['source']}, {row['unit']} {_range(row['start'], row['end'])}",
        "",
        _rule(part, page),
        _body(part, page),
    ]
    return "\n".join(lines)


def render_matches(text: str, searched: Searched, page: Page = PLAIN) -> str:
    """Return a line of context for each match, under the name of its document."""
    lines: list[str] = []
    for match in searched.matches:
        more = f", {match.count:,} times" if match.count > 1 else ""
        title = f"{match.bucket} document {match.document}{more}" + ", held out" * match.heldout
        style = "heldout" if match.heldout else "rule"
        lines += [page.paint(title, style), _context(text, match, page)]
    return "\n".join(lines)


def _context(text: str, match: TextMatch, page: Page) -> str:
    """Return what stands around a match, on one line of the page's width."""
    found = _one_line(text)
    room = max(page.width - len(found) - len("  ......"), 0)
    before, after = _one_line(match.before), _one_line(match.after)
    after_room = max(room - min(len(before), room // 2), 0)
    before_room = max(room - min(len(after), after_room), 0)
    left = before if len(before) <= before_room else f"...{before[len(before) - before_room :]}"
    right = after if len(after) <= after_room else f"{after[:after_room]}..."
    return f"  {left}{page.paint(found, 'match')}{right}"


def _one_line(text: str) -> str:
    return without_controls(re.sub(r"\s+", " ", text))


def _range(start: int, end: int) -> str:
    return f"{start:,} to {end - 1:,}"


def _rule(part: DocumentPart, page: Page) -> str:
    extent = f"{part.tokens:,} tokens"
    if part.first or part.last < part.tokens:
        extent = f"tokens {_range(part.first, part.last)} of {part.tokens:,}"
    title = f"conversation {part.document:,}, {extent}"
    if part.number_in_source is not None:
        number = f"number {part.number_in_source:,} of the source"
        title = f"document {part.document:,}, {number}, {extent}"
    if part.heldout:
        title += ", held out"
    return page.paint(
        f"──── {title} ".ljust(page.width, "─"), "heldout" if part.heldout else "rule"
    )


def _body(part: DocumentPart, page: Page) -> str:
    if not (page.is_coloured and part.runs):
        return without_controls(part.text)
    styles: Iterable[_Style | None] = (
        ("supervised token" if i % 2 else "supervised") if run.supervised
        else ("token" if i % 2 else None)
        for i, run in enumerate(part.runs)
    )  # fmt: skip
    return "".join(
        page.paint(without_controls(run.text), style)
        for run, style in zip(part.runs, styles, strict=True)
    )
