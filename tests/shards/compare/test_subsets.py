from dataclasses import asdict

from mobilellama.shards.compare.subsets import SubsetCounts, SubsetDifference, compare_subsets
from mobilellama.shards.manifest import ManifestRow
from tests.shards.conftest import receipt


def row(subset: str, bucket: int, lengths: list[int], digest: str = "b") -> ManifestRow:
    made = asdict(receipt(subset, bucket, lengths))
    return made | {"bin_sha256": digest, "idx_sha256": "i"}  # pyright: ignore[reportReturnType]


def test_buckets_are_equal_different_or_in_one_alone() -> None:
    first = [row("a", 0, [3]), row("a", 1, [4, 4]), row("a", 2, [5]), row("gone", 0, [9])]
    second = [row("a", 0, [3]), row("a", 1, [4, 5], "other"), row("a", 3, [6]), row("new", 0, [7])]
    found = compare_subsets(first, second)
    assert [*found] == ["a", "gone", "new"]
    assert found["a"] == SubsetDifference(
        first=SubsetCounts(buckets=3, documents=4, tokens=16, train_tokens=16),
        second=SubsetCounts(buckets=3, documents=4, tokens=18, train_tokens=18),
        equal_buckets=1,
        different_buckets=["a/00001"],
        only_in_first=["a/00002"],
        only_in_second=["a/00003"],
    )
    assert found["gone"].second is None and found["gone"].only_in_first == ["gone/00000"]
    assert found["new"].first is None and found["new"].only_in_second == ["new/00000"]
