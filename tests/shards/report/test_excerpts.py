from collections import Counter
from pathlib import Path

import pytest

from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.report.excerpts import draw_documents_of, read_excerpt
from tests.shards.conftest import MakeDataset
from tests.shards.report.conftest import HOSTILE


def test_an_excerpt_is_the_beginning_of_the_document(odd_dataset: Path) -> None:
    dataset = TokenDataset(odd_dataset)
    count = dataset.totals["c4"]["documents"]
    read = [read_excerpt(dataset, dataset.tokenizer, "c4/00000", i) for i in range(count)]
    whole = [one.text for one in read if not one.is_cut]
    assert whole.count(HOSTILE) == 4 and len(whole) == count
    assert f"Text number 39, {'word ' * 40}" in whole
    assert sum(one.tokens for one in read) == dataset.totals["c4"]["tokens"]
    article = read_excerpt(dataset, dataset.tokenizer, "wikipedia/00000", 0)
    assert article.is_cut and len(article.text) <= 600
    assert ("An article. " * 300).startswith(article.text) and len(article.text) > 300


def test_documents_are_drawn_once_each_from_every_bucket_that_has_some(
    make_dataset: MakeDataset,
) -> None:
    dataset = make_dataset({"a": [[5] * 10, [], [7] * 30], "b": [[]]})
    places = {("a/00000", i) for i in range(10)} | {("a/00002", i) for i in range(30)}
    assert set(draw_documents_of(dataset, "a", 1000, seed=1)) == places
    assert draw_documents_of(dataset, "a", 0, seed=1) == []
    assert draw_documents_of(dataset, "b", 3, seed=1) == []
    drawn = Counter(
        place for seed in range(200) for place in draw_documents_of(dataset, "a", 4, seed)
    )
    assert drawn.keys() == places and drawn.total() == 800
    in_first = sum(count for (bucket, _), count in drawn.items() if bucket == "a/00000")
    assert in_first == pytest.approx(200, abs=60)  # 5 standard deviations
