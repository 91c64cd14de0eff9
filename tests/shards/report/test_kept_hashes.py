from collections import Counter

import numpy as np
import pytest

from mobilellama.shards.report.kept_hashes import KeptHashes


def fill(kept: KeptHashes, hashes: np.ndarray, subsets: np.ndarray, block: int = 100) -> None:
    """Add hashes in blocks, each of one subset; the document's number is its place."""
    for start in range(0, len(hashes), block):
        part = hashes[start : start + block]
        places = np.arange(start, start + len(part))
        kept.add(
            part, subset=int(subsets[start // block]), bucket=start // block, documents=places,
            tokens=part % 1000,
        )  # fmt: skip


def test_rows_are_the_counts_and_first_places_of_a_plain_dictionary() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, 700, np.uint64)[random.integers(0, 700, 20_000)]
    subsets = random.integers(0, 3, 200)
    kept = KeptHashes(5000)
    fill(kept, hashes, subsets)
    rows = kept.rows()
    of_each = np.repeat(subsets, 100)
    counts = Counter(zip(hashes.tolist(), of_each.tolist(), strict=True))
    first: dict[tuple[int, int], int] = {}
    for place, key in enumerate(zip(hashes.tolist(), of_each.tolist(), strict=True)):
        first.setdefault(key, place)
    assert kept.share == 1
    keys = list(zip(rows["hash"].tolist(), rows["subset"].tolist(), strict=True))
    assert keys == sorted(counts)
    assert rows["count"].tolist() == [counts[key] for key in keys]
    assert rows["document"].tolist() == [first[key] for key in keys]
    assert rows["bucket"].tolist() == [first[key] // 100 for key in keys]
    assert rows["tokens"].tolist() == [key[0] % 1000 for key in keys]


def test_too_many_hashes_leave_a_share_of_them_with_all_their_copies() -> None:
    random = np.random.default_rng(1)
    texts = random.integers(0, 2**64, 30_000, np.uint64)
    hashes = random.permutation(np.concatenate([texts, texts[:10_000], texts[:10_000]]))
    kept = KeptHashes(2000)
    fill(kept, hashes, np.zeros(500, int))
    rows = kept.rows()
    assert 500 < len(rows) <= 2000
    assert kept.share in {2.0**-i for i in range(1, 8)}
    counts = Counter(hashes.tolist())
    limit = kept.share * 2**64
    assert rows["hash"].tolist() == sorted(key for key in counts if key < limit)
    assert rows["count"].tolist() == [counts[key] for key in rows["hash"].tolist()]
    assert len(rows) / kept.share == pytest.approx(30_000, rel=0.2)
    assert 1 - len(rows) / rows["count"].sum() == pytest.approx(0.4, abs=0.05)


def test_a_text_of_very_many_copies_takes_one_row() -> None:
    kept = KeptHashes(1000)
    hashes = np.full(50_000, 2**64 - 1, np.uint64)  # the first to go, if any had to
    fill(kept, hashes, np.zeros(500, int))
    assert kept.share == 1
    assert kept.rows()["count"].tolist() == [50_000]


def test_nothing_added_is_no_row() -> None:
    assert len(KeptHashes().rows()) == 0
