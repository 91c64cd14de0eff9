"""The draw of an audit: equal parts of subsets, few buckets, the same documents for one seed."""

from typing import cast

import pytest

from mobilellama.shards.audit.sample import DOCUMENTS_PER_BUCKET, draw_documents
from mobilellama.shards.manifest import ManifestRow


def rows(**documents: list[int]) -> list[ManifestRow]:
    return [
        cast(ManifestRow, {"subset": subset, "bucket": bucket, "documents": count})
        for subset, counts in documents.items()
        for bucket, count in enumerate(counts)
    ]


def by_subset(drawn: dict[str, list[int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for name, documents in drawn.items():
        sums[name[:-6]] = sums.get(name[:-6], 0) + len(documents)
    return sums


@pytest.mark.parametrize(
    ("sample", "shares"),
    [
        (300, {"big": 100, "c4": 100, "book": 100}),
        (900, {"big": 395, "c4": 395, "book": 110}),  # book has 110, the others share 790
        (3, {"big": 1, "c4": 1, "book": 1}),
        (1, {"book": 1}),
        (1 << 40, {"big": 50_000, "c4": 600, "book": 110}),
    ],
)
def test_subsets_give_equal_parts_and_small_ones_all(sample: int, shares: dict[str, int]) -> None:
    manifest = rows(big=[500] * 100, c4=[200, 0, 400], book=[110], empty=[0, 0])
    found = by_subset(draw_documents(manifest, sample, 1))
    assert {name: count for name, count in found.items() if count} == shares


def test_of_all_documents_empty_buckets_are_looked_at_too() -> None:
    manifest = rows(c4=[200, 0], empty=[0])
    assert draw_documents(manifest, 200, 1).keys() == {"c4/00000", "c4/00001", "empty/00000"}
    assert draw_documents(manifest, 199, 1).keys() == {"c4/00000"}


def test_few_buckets_are_opened_and_their_documents_are_drawn_once_in_order() -> None:
    manifest = rows(c4=[500] * 200)
    drawn = draw_documents(manifest, 1000, 1)
    assert len(drawn) == 1000 // DOCUMENTS_PER_BUCKET
    assert list(drawn) == sorted(drawn)
    for documents in drawn.values():
        assert documents == sorted(set(documents))
        assert 0 <= documents[0] and documents[-1] < 500


def test_buckets_too_small_for_their_part_are_joined_by_more() -> None:
    drawn = draw_documents(rows(c4=[3] * 100), 120, 1)
    assert sum(map(len, drawn.values())) == 120
    assert len(drawn) == 40


def test_all_documents_are_drawn_of_a_small_dataset() -> None:
    drawn = draw_documents(rows(c4=[4, 2]), 6, 1)
    assert drawn == {"c4/00000": [0, 1, 2, 3], "c4/00001": [0, 1]}


def test_a_seed_always_draws_the_same_and_another_seed_others() -> None:
    manifest = rows(c4=[500] * 40, book=[70])
    first = draw_documents(manifest, 100, 1)
    assert draw_documents(manifest, 100, 1) == first
    other = draw_documents(manifest, 100, 2)
    assert other["book/00000"] != first["book/00000"] and by_subset(other) == by_subset(first)


def test_a_bucket_is_drawn_by_its_documents() -> None:
    """Of two buckets, one has 9 documents in 10, so it is drawn 9 times in 10."""
    manifest = rows(c4=[9_000, 1_000])
    first = sum("c4/00000" in draw_documents(manifest, 1, seed) for seed in range(400))
    assert 330 < first < 385  # 360 expected, standard deviation 6
