"""Two datasets subset by subset: counts, and which buckets have other files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mobilellama.shards.dataset import bucket_name
from mobilellama.shards.manifest import ManifestRow, row_hashes


@dataclass(frozen=True, kw_only=True)
class SubsetCounts:
    """A subset in one of the datasets."""

    buckets: int
    documents: int
    tokens: int
    train_tokens: int


@dataclass(frozen=True, kw_only=True)
class SubsetDifference:
    """A subset in both."""

    first: SubsetCounts | None
    """None: the first dataset has no such subset."""
    second: SubsetCounts | None
    equal_buckets: int
    """Buckets whose files have the same hashes."""
    different_buckets: list[str]
    """``SUBSET/NNNNN`` of buckets that both have, with other files."""
    only_in_first: list[str]
    """Buckets that the second dataset lacks."""
    only_in_second: list[str]


def compare_subsets(
    first: Sequence[ManifestRow], second: Sequence[ManifestRow]
) -> dict[str, SubsetDifference]:
    """Compare the manifests' counts and hashes, by subset, in order of name."""
    names = sorted({row["subset"] for row in (*first, *second)})
    rows = [{name: _by_bucket(manifest, name) for name in names} for manifest in (first, second)]
    return {name: _compared(rows[0][name], rows[1][name]) for name in names}


def _by_bucket(manifest: Sequence[ManifestRow], subset: str) -> dict[str, ManifestRow]:
    return {bucket_name(subset, row["bucket"]): row for row in manifest if row["subset"] == subset}


def _compared(
    first: Mapping[str, ManifestRow], second: Mapping[str, ManifestRow]
) -> SubsetDifference:
    shared = [name for name in first if name in second]
    different = [name for name in shared if row_hashes(first[name]) != row_hashes(second[name])]
    return SubsetDifference(
        first=_counts(first),
        second=_counts(second),
        equal_buckets=len(shared) - len(different),
        different_buckets=different,
        only_in_first=[name for name in first if name not in second],
        only_in_second=[name for name in second if name not in first],
    )


def _counts(rows: Mapping[str, ManifestRow]) -> SubsetCounts | None:
    if not rows:
        return None
    return SubsetCounts(
        buckets=len(rows),
        documents=sum(row["documents"] for row in rows.values()),
        tokens=sum(row["tokens"] for row in rows.values()),
        train_tokens=sum(row["train_tokens"] for row in rows.values()),
    )
