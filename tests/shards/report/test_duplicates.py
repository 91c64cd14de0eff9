from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mobilellama.config import DataError
from mobilellama.shards.dataset import bucket_name
from mobilellama.shards.format import write_index
from mobilellama.shards.manifest import write_dataset
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.report.duplicates import Duplicates, find_duplicates
from tests.shards.conftest import EOS_ID, IDENTITY, MakeDataset, receipt

Texts = dict[str, list[list[Sequence[int]]]]


def write_texts(folder: Path, texts: Texts) -> TokenDataset:
    """Write {subset: [documents of each bucket]}; EOS is added."""
    receipts = []
    for subset, buckets in texts.items():
        (folder / subset).mkdir(parents=True)
        for number, documents in enumerate(buckets):
            stem = folder / bucket_name(subset, number)
            ids = [i for document in documents for i in (*document, EOS_ID)]
            np.array(ids, "<u2").tofile(stem.with_suffix(".bin"))
            lengths = [len(document) + 1 for document in documents]
            with open(stem.with_suffix(".idx"), "wb") as file:
                write_index(file, np.array(lengths, int), "uint16")
            receipts.append(receipt(subset, number, lengths))
    write_dataset(folder, IDENTITY, receipts)
    return TokenDataset(folder)


def find(dataset: TokenDataset, *, max_tokens: float = 1e9, seed: int = 1,
         most_kept: int = 1 << 20) -> Duplicates:  # fmt: skip
    told: list[int] = []
    found = find_duplicates(
        dataset, max_tokens=max_tokens, seed=seed, most=3, advance=told.append,
        most_kept=most_kept,
    )  # fmt: skip
    assert sum(told) == sum(row["tokens"] for row in dataset.manifest)
    return found


def test_copies_are_counted_within_subsets_and_between_them(tmp_path: Path) -> None:
    a, b, c, d = [5, 6], [5, 7], [5, 6, 7], [9]
    texts: Texts = {"x": [[a, b, a], [c, a]], "y": [[a, d], [d]], "z": [[]]}
    found = find(write_texts(tmp_path / "made", texts))
    assert found.share == 1
    total = found.total
    assert (total.documents, total.copies) == (8, 4)
    assert (total.tokens, total.copied_tokens) == (3 * 5 + 4 + 2 * 2, 3 * 3 + 2)
    subsets = {name: (one.documents, one.copies) for name, one in found.subsets.items()}
    assert subsets == {"x": (5, 2), "y": (3, 1), "z": (0, 0)}
    shown = [(one.count, one.subsets, one.bucket, one.document) for one in found.repeated]
    assert shown == [(4, {"x": 3, "y": 1}, "x/00000", 0), (2, {"y": 2}, "y/00000", 1)]


def test_ids_of_equal_texts_are_equal_in_real_text(odd_dataset: Path) -> None:
    """The corpus has 4 hostile texts, one text in two subsets (1 + 3), and one copy."""
    found = find(TokenDataset(odd_dataset))
    assert (found.total.documents, found.total.copies) == (54, 3 + 3 + 1)
    copies = {name: one.copies for name, one in found.subsets.items()}
    assert copies == {"c4": 4, "common_crawl": 2, "wikipedia": 0}
    assert [one.count for one in found.repeated] == [4, 4, 2]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    """20,000 documents of 400 lengths, of which about a third are copies."""
    random = np.random.default_rng(3)
    texts = [
        random.integers(3, 60_000, int(random.integers(1, 401))).tolist() for _ in range(13_333)
    ]
    drawn = [*texts, *(texts[i] for i in random.integers(0, len(texts), 6_667))]
    order = random.permutation(len(drawn)).tolist()
    shuffled = [drawn[i] for i in order]
    folder = tmp_path_factory.mktemp("many") / "made"
    return write_texts(
        folder, {"a": [shuffled[:7000], shuffled[7000:15_000]], "b": [shuffled[15_000:]]}
    )


def test_estimates_of_a_part_are_near_the_whole_and_without_bias(many: TokenDataset) -> None:
    whole = find(many).total
    assert whole.copies == 6_667
    exact = whole.copies / whole.documents
    for max_tokens, most_kept in ((whole.tokens / 8, 1 << 20), (1e9, 3000)):
        shares, estimates = [], []
        for seed in range(6):
            found = find(many, seed=seed, max_tokens=max_tokens, most_kept=most_kept)
            assert 0 < found.share < 1
            shares.append(found.total.documents / found.share / whole.documents)
            estimates.append(found.total.copies / found.total.documents)
        assert np.mean(estimates) == pytest.approx(exact, abs=0.02)
        assert np.mean(shares) == pytest.approx(1, abs=0.12)


def test_a_part_reads_no_more_than_it_may(many: TokenDataset) -> None:
    tokens = sum(row["tokens"] for row in many.manifest)
    found = find(many, max_tokens=tokens / 10)
    assert found.share == pytest.approx(0.1)
    assert 0 < found.total.tokens < tokens / 4


def test_all_copies_of_a_text_are_read_or_none(many: TokenDataset) -> None:
    ids = {
        row["bucket"] + 10 * (row["subset"] == "b"): many.bucket_tokens(
            bucket_name(row["subset"], row["bucket"]), row["tokens"]
        )
        for row in many.manifest
    }
    counts: Counter[bytes] = Counter()
    for stored in ids.values():
        ends = np.flatnonzero(stored == EOS_ID) + 1
        counts.update(part.tobytes() for part in np.split(stored, ends)[:-1])
    for one in find(many, max_tokens=500_000).repeated:
        start, length = many.bucket_index(one.bucket).span(one.document)
        stored = many.bucket_tokens(one.bucket, many.row(one.bucket)["tokens"])
        assert counts[stored[start : start + length].tobytes()] == one.count > 1


@pytest.mark.parametrize("fault", ["cut", "missing"])
def test_a_file_that_is_cut_or_missing_is_named(make_dataset: MakeDataset, fault: str) -> None:
    dataset = make_dataset({"a": [[5, 5], [9]]})
    path = dataset.folder / "a/00001.bin"
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-2])
    else:
        path.unlink()
    state = "is shorter than its index says" if fault == "cut" else "missing"
    with pytest.raises(
        DataError, match=rf"a/00001\.bin: {state}\. Run 'mobilellama shards verify'"
    ):
        find(dataset)
