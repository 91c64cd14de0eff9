from pathlib import Path
from typing import cast

import pytest

from mobilellama.shards.manifest import ManifestRow
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.showing.parts import DocumentPart, TextRun
from mobilellama.shards.showing.render import Page, render, render_document, render_matches
from mobilellama.shards.showing.sample import SampleDescription
from mobilellama.shards.showing.search import Searched, TextMatch


def test_a_printed_sample_marks_its_documents_and_cannot_drive_the_terminal(
    small_dataset: Path,
) -> None:
    dataset = TokenDataset(small_dataset)
    span = dataset.windows("github", 10).span(3)
    parts = (
        DocumentPart(document=4, number_in_source=17, tokens=9, first=7, last=9, text="a\x1b[2Jb"),
        DocumentPart(
            document=5, number_in_source=1, tokens=1200, first=0, last=1200, text="c\n\td"
        ),
    )
    shown = SampleDescription(
        subset="github", sample=3, num_samples=40, span=span, source="github/x.jsonl",
        source_range=(0, 1000), unit="bytes", parts=parts,
    )  # fmt: skip
    lines = render(shown).split("\n")
    assert lines[0] == "subset   github, sample 3 of 40"
    assert lines[1] == f"bucket   github/00000, tokens 30 to 40 of {span.bucket_tokens:,}"
    assert lines[2] == "source   github/x.jsonl, bytes 0 to 999"
    assert lines[4].startswith("──── document 4, number 17 of the source, tokens 7 to 8 of 9 ───")
    assert lines[5] == "a\N{REPLACEMENT CHARACTER}[2Jb"
    assert lines[7].startswith("──── document 5, number 1 of the source, 1,200 tokens ───")
    assert lines[8:] == ["c", "\td"]


def test_colours_mark_tokens_supervision_and_what_is_held_out() -> None:
    runs = (TextRun(text="a "), TextRun(text="b\x1b"), TextRun(text="c", supervised=True))
    part = DocumentPart(
        document=4, number_in_source=17, tokens=4, first=0, last=4, text="a b\x1bc", runs=runs,
        heldout=True,
    )  # fmt: skip
    row = cast(ManifestRow, {"documents": 5, "tokens": 90, "source": "s", "unit": "bytes",
                             "start": 0, "end": 9})  # fmt: skip
    page = Page(width=60, is_coloured=True)
    lines = render_document("c4/00000", row, part, page).split("\n")
    assert lines[:3] == [
        "bucket   c4/00000, 5 documents, 90 tokens",
        "source   s, bytes 0 to 8",
        "",
    ]
    rule = "──── document 4, number 17 of the source, 4 tokens, held out "
    assert lines[3] == f"\x1b[1;33m{rule}\x1b[0m" and len(rule) == 61
    assert lines[4] == "a \x1b[36mb\ufffd\x1b[0m\x1b[32mc\x1b[0m"
    plain = render_document("c4/00000", row, part).split("\n")
    assert plain[3] == rule.ljust(100, "─") and plain[4] == "a b\ufffdc"


@pytest.mark.parametrize("width", [20, 40, 80, 400])
def test_a_match_is_one_line_that_fits(width: int) -> None:
    match = TextMatch(
        bucket="c4/00003", document=7, before="much before\n " * 9, after=" and\tmuch after" * 9,
        count=2, heldout=True,
    )  # fmt: skip
    searched = Searched(matches=[match], tokens=9, is_all=True)
    title, line = render_matches("the\nphrase", searched, Page(width=width)).split("\n")
    assert title == "c4/00003 document 7, 2 times, held out"
    assert "the phrase" in line and len(line) <= width
    if width == 400:
        assert line == f"  {'much before ' * 9}the phrase{' and much after' * 9}"
    else:
        assert width - len(line) < 3 and line.startswith("  ...") and line.endswith("...")
