"""A search finds the documents that hold a text, all of them and no others."""

from pathlib import Path

import pytest

from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.showing import search
from mobilellama.shards.showing.parts import document_part
from mobilellama.shards.showing.search import search_text

EVERY = 10**6


@pytest.mark.parametrize("text", ["import os", "ß", "the\n", "def __init__(self"])
@pytest.mark.parametrize("stretch_tokens", [1, 5_000, 2_000_000])
def test_what_is_found_is_what_the_texts_of_the_source_hold(
    small_dataset: Path, source_texts: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch,
    text: str, stretch_tokens: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(search, "_STRETCH_TOKENS", stretch_tokens)
    dataset = TokenDataset(small_dataset)
    searched = search_text(dataset, text, limit=EVERY, workers=1)
    assert searched.is_all
    assert searched.tokens == sum(row["tokens"] for row in dataset.manifest)
    found = []
    for match in searched.matches:
        part = document_part(dataset, dataset.tokenizer, match.bucket, match.document)
        assert match.before + text + match.after in part.text
        assert part.text.count(text) == match.count and part.heldout == match.heldout
        found.append(part.text)
    held = [one for texts in source_texts.values() for one in texts if text in one]
    assert sorted(found) == sorted(held)


def test_the_limit_ends_the_search_and_a_subset_bounds_it(small_dataset: Path) -> None:
    dataset = TokenDataset(small_dataset)
    every = search_text(dataset, "import", limit=EVERY, workers=1).matches
    first = search_text(dataset, "import", limit=3, workers=1)
    assert first.matches == every[:3] and len(every) > 10 and not first.is_all
    some = search_text(dataset, "import", subset="wikipedia", limit=EVERY, workers=1)
    assert some.tokens == dataset.totals["wikipedia"]["tokens"]
    assert some.matches == [one for one in every if one.bucket.startswith("wikipedia/")]


def test_workers_find_the_same_in_the_same_order(
    small_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_TOKENS_WORTH_A_WORKER", 1000)
    monkeypatch.setattr(search, "_STRETCH_TOKENS", 50_000)
    dataset = TokenDataset(small_dataset)
    one, two = (search_text(dataset, "import", limit=20, workers=n) for n in (1, 2))
    assert one.matches == two.matches and len(one.matches) == 20
