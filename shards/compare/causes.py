"""Say why two datasets most likely differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mobilellama.config import UserError
from mobilellama.shards.compare.identities import IdentityDifference
from mobilellama.shards.compare.subsets import SubsetDifference
from mobilellama.shards.dataset import Identity, Receipt, Slice, read_receipt
from mobilellama.shards.manifest import ManifestRow
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.source_file import SourceRange

_NAMED = 3  # sources in one message


def likely_causes(
    first: TokenDataset,
    second: TokenDataset,
    fields: Sequence[IdentityDifference],
    subsets: Mapping[str, SubsetDifference],
) -> list[str]:
    """Return the causes, the most certain first; none for two datasets of the same content."""
    causes = list(dict.fromkeys(f"{one.effect} ({one.field})" for one in fields))
    names = {name for one in subsets.values() for name in one.different_buckets}
    is_same = not names and not any(
        one.only_in_first or one.only_in_second for one in subsets.values()
    )
    if is_same:
        return [*causes, "the token files are the same"] if fields else []
    if sources := _other_sources(first, second):
        causes.append(sources)
    changed = _changed_sources(first, second, sorted(names))
    if changed:
        causes.append(f"the corpus was changed: {_listed(changed)} had other bytes")
    if not changed and (bad := _other_bad_records(first, second, sorted(names))):
        causes.append(f"other records were left out as bad: {bad}")
    if any(one.field == "seed" for one in fields) and _same_counts(subsets):
        causes.append(
            "all counts are the same: most likely only the order of the documents differs"
        )
    if not causes:
        causes.append(
            "the settings and the sources' names are the same, and no other bytes are known to "
            "have been read: compare the files with 'shards verify' and the ids with 'shards "
            "audit', in both"
        )
    return causes


def _same_counts(subsets: Mapping[str, SubsetDifference]) -> bool:
    return all(one.first == one.second for one in subsets.values())


def _other_sources(first: TokenDataset, second: TokenDataset) -> str | None:
    """Return what is said of sources that only one of the datasets was made of."""
    names = [{(row["subset"], row["source"]) for row in one.manifest} for one in (first, second)]
    lacking = [sorted(source for _, source in one - other) for one, other in (names, names[::-1])]
    if not any(lacking):
        return None
    parts = [
        f"only the {which} has {_listed(sources)}"
        for which, sources in zip(("first", "second"), lacking, strict=True)
        if sources
    ]
    return f"other files were tokenised: {'; '.join(parts)}"


def _changed_sources(
    first: TokenDataset, second: TokenDataset, buckets: Sequence[str]
) -> list[str]:
    """Return the sources of buckets whose receipts say that other bytes were read."""
    changed: dict[str, None] = {}
    for name in buckets:
        rows = [dataset.row(name) for dataset in (first, second)]
        places = {(row["source"], row["start"], row["end"], row["unit"]) for row in rows}
        read = [
            _read(one.folder, row, one.identity)
            for one, row in zip((first, second), rows, strict=True)
        ]
        if rows[0]["source"] != rows[1]["source"] or None in read:
            continue
        same_place = len(places) == 1 or rows[0]["start"] == rows[1]["start"] == 0
        if same_place and read[0] != read[1]:
            changed[rows[0]["source"]] = None
    return [*changed]


def _other_bad_records(
    first: TokenDataset, second: TokenDataset, buckets: Sequence[str]
) -> str | None:
    """Return the first bucket in which the datasets left out other records, and how many."""
    for name in buckets:
        receipts = [_receipt(one.folder, one.row(name), one.identity) for one in (first, second)]
        one, other = receipts
        if one is None or other is None or one.source != other.source:
            continue
        if (one.bad_records, one.bad_places) != (other.bad_records, other.bad_places):
            only = [place for place in one.bad_places + other.bad_places
                    if (place in one.bad_places) != (place in other.bad_places)]  # fmt: skip
            example = f", such as the one at {only[0][0]:,}: {only[0][1]}" if only else ""
            return f"{name} has {one.bad_records:,} and {other.bad_records:,}{example}"
    return None


def _read(folder: Path, row: ManifestRow, identity: Identity) -> str | None:
    """Return the sha256 of what a bucket was made of; None where it is not known."""
    receipt = _receipt(folder, row, identity)
    known = receipt and SourceRange.from_json(receipt.source_file)
    return known.sha256 if known else None


def _receipt(folder: Path, row: ManifestRow, identity: Identity) -> Receipt | None:
    """Return a bucket's receipt; None where it cannot be read."""
    slice_ = Slice(
        subset=row["subset"], bucket=row["bucket"], source=row["source"], size=row["end"],
        start=row["start"], end=row["end"], unit=row["unit"],
    )  # fmt: skip
    try:
        return read_receipt(folder, slice_, identity)
    except UserError:
        return None


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
