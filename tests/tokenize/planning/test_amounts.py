from pathlib import Path

from mobilellama.tokenize.planning.amounts import Amount, amounts_found, amounts_listed
from mobilellama.tokenize.sources.slices import find_slices
from tests.tokenize.conftest import place


def test_what_is_found_is_counted_by_subset(tmp_path: Path) -> None:
    sources = place(tmp_path, c4__a_DOT_jsonl=25, c4__b_DOT_jsonl=10, book__b_DOT_jsonl_DOT_zst=40)
    assert amounts_found(find_slices(sources, 10)) == {
        "book": Amount(sources=1, slices=1, size=40, largest=40),
        "c4": Amount(sources=2, slices=4, size=35, largest=10),
    }


def test_what_is_listed_has_the_published_mean_size() -> None:
    """wiki.jsonl is 111 GB; a file of the dump 2019-30 is 237 GB / 153 and is not cut."""
    crawl = [f"common_crawl/2019-30/en_head_{i:04}.json.gz.jsonl.zst" for i in range(2)]
    found = amounts_listed(["wikipedia/wiki.jsonl", *crawl], 10**9)
    size = round(237e9 / 153)
    assert found == {
        "common_crawl": Amount(sources=2, slices=2, size=2 * size, largest=size),
        "wikipedia": Amount(sources=1, slices=111, size=111 * 10**9, largest=10**9),
    }


def test_a_line_has_the_unit_of_its_size() -> None:
    rows = Amount(sources=1, slices=2, size=2_500, largest=2_000, unit="rows")
    assert rows.line("mine") == "mine: 1 source, 2 slices, 2,500 rows"
    assert Amount(sources=2, slices=1, size=2_500, largest=1).size_text == "2.5 kB"
