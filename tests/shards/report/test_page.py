import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.report.gather import ReportContent, ReportOptions, gather
from mobilellama.shards.report.page import render_page
from tests.helpers.browser import show
from tests.shards.report.conftest import HOSTILE
from tests.shards.report.test_gather import OPTIONS

VOID = {"meta"}


class Checked(HTMLParser):
    """Fails where an element is closed that is not open; remembers what is left open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def content_of(folder: Path, options: ReportOptions = OPTIONS) -> ReportContent:
    dataset = TokenDataset(folder)
    return gather(dataset, dataset.tokenizer, options)


def cells_of(page: str, heading: str) -> list[list[str]]:
    """Return the rows of the table below a heading, as plain text."""
    section = page.partition(f"<h2>{heading}</h2>")[2].partition("</section>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", section)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_the_markup_is_whole_and_the_same_content_gives_the_same_bytes(odd_dataset: Path) -> None:
    pages = [render_page(content_of(odd_dataset), date="today") for _ in range(2)]
    assert pages[0] == pages[1]
    checked = Checked()
    checked.feed(pages[0])
    checked.close()
    assert checked.open == []
    assert pages[0].count(HOSTILE.partition("<")[0] + "&lt;script&gt;document.title") >= 1


def test_tables_hold_lengths_bytes_and_epochs(odd_dataset: Path) -> None:
    dataset = TokenDataset(odd_dataset)
    page = render_page(content_of(odd_dataset, replace(OPTIONS, budget_tokens=1e6)), date="today")
    (length,) = dataset.bucket_index("wikipedia/00000").lengths
    wikipedia = cells_of(page, "Lengths in tokens")[-1]
    assert wikipedia[0] == "wikipedia" and wikipedia[-2] == f"{length:,.1f}"
    assert all(
        abs(int(cell.replace(",", "")) / length - 1) < 0.011
        for cell in [*wikipedia[1:-2], wikipedia[-1]]
    )
    total = dataset.totals["c4"]
    assert cells_of(page, "Tokens per byte")[1] == [
        "c4", f"{total['bytes_in']:,}", f"{total['tokens']:,}",
        f"{total['tokens'] / total['bytes_in']:.4f}", f"{total['bytes_in'] / total['tokens']:.3f}",
    ]  # fmt: skip
    shares = {row[0]: row[1:] for row in cells_of(page, "Shares and the recipe")[1:]}
    train = [dataset.totals[name]["train_tokens"] for name in ("c4", "common_crawl", "wikipedia")]
    assert shares["c4"] == [
        f"{train[0]:,}", f"{100 * train[0] / sum(train):.2f} %", "14.90 %",
        f"{1e6 * 15.0 / 100.7 / train[0]:,.2f}",
    ]  # fmt: skip
    assert shares["arxiv"] == ["0", "0.00 %", "2.48 %", "-"]
    assert "the dataset has no arxiv, book, github, stackexchange." in page


def test_a_dataset_of_conversations_has_its_own_words(prepared_rows: Path) -> None:
    page = render_page(content_of(prepared_rows), date="today")
    assert "conversations, packed to 128 tokens" in page
    assert "No recipe is compared: --mixture names one." in page
    assert "Packed rows have none: their tokens are also those of the chat template." in page
    (row,) = cells_of(page, "Subsets")[1:-1]
    assert row[2] == "8" and row[6] == "2"


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1000])
def test_a_dataset_of_one_word_fits_the_window(
    small_tokenizer: Path, tmp_path: Path, width: int
) -> None:
    from mobilellama.tokenize.main import main as tokenize_main

    path = tmp_path / f"corpus/{'a_subset_with_a_very_long_name' * 3}/a.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"text": "Hello"}\n')
    arguments = ["--tokenizer", str(small_tokenizer), "--sources.root", str(tmp_path / "corpus")]
    arguments += ["--output", str(tmp_path / "dataset"), "--workers", "1"]
    assert tokenize_main(["run", *arguments]) == 0
    page = render_page(content_of(tmp_path / "dataset"), date="today")
    shown = show(page, tmp_path, width=width, height=1600)
    assert shown.scroll_width == width
    assert [one.text for one in shown.named("pre")] == ["Hello"]
    for one in shown.named("text"):
        assert 0 <= one.x and one.x + one.width <= width
