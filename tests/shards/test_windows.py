from pathlib import Path

import numpy as np
import pytest

from mobilellama.shards.dataset import bucket_name
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.windows import Split
from tests.shards.conftest import MakeDataset


def predicted_tokens(
    dataset: TokenDataset, subset: str, seq_len: int, split: Split
) -> dict[str, np.ndarray]:
    """Return, for each bucket, how often each of its tokens is predicted."""
    counts = {
        bucket_name(subset, row["bucket"]): np.zeros(row["tokens"], int)
        for row in dataset.manifest
        if row["subset"] == subset
    }
    windows = dataset.windows(subset, seq_len, split)
    for sample in range(len(windows)):
        span = windows.span(sample)
        assert span.length == seq_len + 1
        counts[span.bucket][span.start + 1 : span.start + span.length] += 1
    return counts


@pytest.mark.parametrize("seq_len", [1, 7, 64, 1000])
def test_every_training_token_is_predicted_once_and_the_tail_is_counted(
    small_dataset: Path, seq_len: int
) -> None:
    dataset = TokenDataset(small_dataset)
    assert len(dataset.subsets) >= 3 and len(dataset.manifest) > len(dataset.subsets)
    for subset in dataset.subsets:
        left_out = 0
        for name, counts in predicted_tokens(dataset, subset, seq_len, "train").items():
            train_tokens = dataset.row(name)["train_tokens"]
            predicted = int(counts.sum())
            # Nothing precedes token 0; after it, one unbroken run, each token once.
            assert counts[0] == 0 and (counts[1 : 1 + predicted] == 1).all()
            assert (counts[1 + predicted :] == 0).all()
            assert 0 <= train_tokens - 1 - predicted < seq_len
            left_out += train_tokens - 1 - predicted
        assert dataset.windows(subset, seq_len).tail_tokens == left_out


@pytest.mark.parametrize("seq_len", [16, 100])
def test_heldout_windows_share_no_token_with_training_windows(
    small_dataset: Path, seq_len: int
) -> None:
    dataset = TokenDataset(small_dataset)
    assert sum(len(dataset.windows(name, seq_len, "heldout")) for name in dataset.subsets) > 20
    for subset in dataset.subsets:
        windows = dataset.windows(subset, seq_len, "heldout")
        for sample in range(len(windows)):
            span = windows.span(sample)
            row = dataset.row(span.bucket)
            assert row["train_tokens"] <= span.start
            assert span.start + span.length <= row["tokens"]
        training = dataset.windows(subset, seq_len)
        ends = [training.span(i) for i in range(len(training))]
        assert all(s.start + s.length <= dataset.row(s.bucket)["train_tokens"] for s in ends)


def test_a_sample_holds_the_bytes_of_its_bucket(small_dataset: Path) -> None:
    dataset = TokenDataset(small_dataset)
    for subset in dataset.subsets:
        windows = dataset.windows(subset, 50)
        for sample in {0, len(windows) // 2, len(windows) - 1}:
            span = windows.span(sample)
            data = (small_dataset / f"{span.bucket}.bin").read_bytes()
            expected = np.frombuffer(data, "<u2")[span.start : span.start + span.length]
            assert np.array_equal(windows.tokens(sample), expected)


def test_boundaries_are_where_documents_start(small_dataset: Path) -> None:
    dataset = TokenDataset(small_dataset)
    windows = dataset.windows("common_crawl", 200)
    found = 0
    for sample in range(len(windows)):
        span = windows.span(sample)
        starts = dataset.bucket_index(span.bucket).starts - span.start
        inside = starts[(starts >= 1) & (starts < span.length)]
        assert np.array_equal(windows.boundaries(sample), inside)
        found += len(inside)
    assert found > 10


def test_windows_never_reach_from_one_bucket_into_the_next(make_dataset: MakeDataset) -> None:
    dataset = make_dataset({"a": [[5], [3], [9]]})
    windows = dataset.windows("a", 2)
    assert len(windows) == 2 + 1 + 4
    assert windows.tail_tokens == 0
    assert [windows.span(i).bucket[-1] for i in range(7)] == list("0012222")
    assert [windows.span(i).start for i in range(7)] == [0, 2, 0, 0, 2, 4, 6]


def test_buckets_too_short_for_a_sample_are_passed_over(make_dataset: MakeDataset) -> None:
    dataset = make_dataset({"a": [[1], [9], [4], [], [6]]})
    windows = dataset.windows("a", 5)
    assert [windows.span(i).bucket for i in range(len(windows))] == ["a/00001", "a/00004"]
    assert windows.tail_tokens == 0 + 3 + 3 + 0 + 0
    windows.read_ahead(0)
    windows.read_ahead(1)


def test_samples_outside_the_range_are_a_defect(make_dataset: MakeDataset) -> None:
    windows = make_dataset({"a": [[9]]}).windows("a", 2)
    for sample in (-1, len(windows)):
        with pytest.raises(AssertionError):
            windows.tokens(sample)


def test_a_sample_cannot_be_written_to(make_dataset: MakeDataset) -> None:
    ids = make_dataset({"a": [[9]]}).windows("a", 2).tokens(0)
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 1
