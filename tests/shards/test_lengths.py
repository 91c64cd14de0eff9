from pathlib import Path

import numpy as np
import pytest

from mobilellama.shards.lengths import COARSE_EDGES, Lengths, count_lengths
from mobilellama.shards.reader import TokenDataset
from tests.shards.conftest import MakeDataset


def test_every_document_and_token_is_counted_once(small_dataset: Path) -> None:
    dataset = TokenDataset(small_dataset)
    told: list[int] = []
    counted = count_lengths(dataset, told.append)
    assert tuple(counted) == dataset.subsets
    for subset, lengths in counted.items():
        assert lengths.documents.sum() == dataset.totals[subset]["documents"]
        assert lengths.tokens.sum() == dataset.totals[subset]["tokens"]
        assert [part.sum() for part in lengths.coarse()] == [
            dataset.totals[subset][name] for name in ("documents", "tokens")
        ]
    assert sum(told) == sum(total["documents"] for total in dataset.totals.values())


def test_quantiles_are_numpy_s_to_one_percent() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1.5, 20_001).astype(np.int32) + 1
    counted = Lengths.none()
    counted.add(lengths)
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        expected = np.quantile(lengths, share, method="inverted_cdf")
        assert counted.quantile(share) == pytest.approx(expected, rel=0.011)
    by_tokens = np.repeat(np.sort(lengths), np.sort(lengths))
    middle = np.quantile(by_tokens, 0.5, method="inverted_cdf")
    assert counted.token_quantile(0.5) == pytest.approx(middle, rel=0.011)


def test_short_lengths_are_exact_and_no_document_is_0(make_dataset: MakeDataset) -> None:
    counted = count_lengths(make_dataset({"a": [[2, 7, 90], [7, 3]], "b": [[]]}))
    assert [counted["a"].quantile(share) for share in (0, 0.2, 0.4, 0.5, 0.8, 1)] == [
        2, 2, 3, 7, 7, 90,
    ]  # fmt: skip
    assert counted["b"].quantile(0.5) == counted["b"].token_quantile(0.5) == 0


def test_coarse_counts_are_numpy_s_histogram_of_each_length() -> None:
    lengths = [1, 2, 3, 4, 5, 38, 53, 54, 64, 107, 108, 4095, 4096, 4097]
    lengths += [4870, 4871, 4872, 2**31 - 1]  # 2 ** 12.25 is 4870.99
    counted = Lengths.none()
    counted.add(np.array(lengths))
    documents, tokens = counted.coarse()
    assert documents.tolist() == np.histogram(lengths, COARSE_EDGES)[0].tolist()
    assert tokens.tolist() == np.histogram(lengths, COARSE_EDGES, weights=lengths)[0].tolist()
