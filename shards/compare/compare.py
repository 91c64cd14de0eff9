"""Compare two datasets: settings, subsets, buckets, and the first ids that differ.

  mobilellama shards compare DATASET OTHER

1. The fields that decide the files (tokenizer, seed, slices, ...), and what each difference does.
2. The subsets: documents and tokens of each, and how many buckets have the same files.
3. Of each subset, the first bucket that differs: the document, the token in it, and the ids and
   text of both from there. Each is decoded by the tokenizer in its own folder.
4. The most likely causes.

Buckets are compared by the hashes of the manifests, so only buckets that differ are read. Run
'mobilellama shards verify' if a file may have been damaged since. The exit code is 0 if both have
the same fingerprint, and 1 if they differ.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mobilellama import log as logs
from mobilellama.config import ConfigError
from mobilellama.shards.compare.causes import likely_causes
from mobilellama.shards.compare.first_difference import (
    BucketDifference,
    Decode,
    PlaceInBucket,
    first_difference,
)
from mobilellama.shards.compare.identities import IdentityDifference, identity_differences
from mobilellama.shards.compare.subsets import SubsetCounts, SubsetDifference, compare_subsets
from mobilellama.shards.reader import TokenDataset
from mobilellama.table import aligned, narrowed
from mobilellama.terminal import result_columns, without_controls, wrapped

_SPARE = ("only in one", "equal buckets")
"""Columns that a narrow terminal does not show, the first one first."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'shards compare'."""

    dataset: str
    """The first dataset folder."""
    other: str
    """The second dataset folder."""
    json: bool = False
    """Print JSON, not tables."""


@dataclass(frozen=True, kw_only=True)
class DatasetComparison:
    """What ``shards compare`` prints."""

    first: str
    second: str
    fingerprints: tuple[str, str]
    is_same: bool
    fields: list[IdentityDifference]
    subsets: dict[str, SubsetDifference]
    differences: list[BucketDifference]
    causes: list[str]


def main(config: Config) -> int:
    """Print the comparison; return 1 if the datasets differ."""
    logs.configure()
    compared = compare(
        TokenDataset(config.dataset, field="dataset"), TokenDataset(config.other, field="other")
    )
    if config.json:
        print(json.dumps(asdict(compared), indent=2, ensure_ascii=False))
    else:
        print(wrapped(_text(compared), result_columns()))
    return 0 if compared.is_same else 1


def compare(first: TokenDataset, second: TokenDataset) -> DatasetComparison:
    """Compare two datasets.

    Raises:
        DataError: a file of a bucket that differs is missing or truncated.
    """
    fields = identity_differences(first.identity, second.identity)
    subsets = compare_subsets(first.manifest, second.manifest)
    decoders = (_decoder(first), _decoder(second))
    found = [
        first_difference(first, second, one.different_buckets[0], decoders)
        for one in subsets.values()
        if one.different_buckets
    ]
    return DatasetComparison(
        first=str(first.folder),
        second=str(second.folder),
        fingerprints=(first.fingerprint, second.fingerprint),
        is_same=first.fingerprint == second.fingerprint,
        fields=fields,
        subsets=subsets,
        differences=[one for one in found if one is not None],
        causes=likely_causes(first, second, fields, subsets),
    )


def _decoder(dataset: TokenDataset) -> Decode | None:
    """Return what decodes a dataset's ids; None where it has lost its tokenizer."""
    try:
        tokenizer = dataset.tokenizer
    except ConfigError:
        return None
    return lambda ids: tokenizer.decode([i for i in ids if i != dataset.identity.eos_id])


def _text(compared: DatasetComparison) -> str:
    lines = [f"first   {compared.first}", f"second  {compared.second}", ""]
    if compared.is_same:
        return "\n".join([*lines, f"same: both have fingerprint {compared.fingerprints[0]}"])
    if compared.fields:
        rows = [["setting", "first", "second"]]
        rows += [[one.field, _short(one.first), _short(one.second)] for one in compared.fields]
        lines += [aligned(rows, left=(0, 1, 2)), ""]
    lines += [_table(compared), ""]
    for one in compared.differences:
        lines += [*_difference(one), ""]
    lines += ["different:", *(f"- {cause}" for cause in compared.causes)]
    return "\n".join(lines)


def _short(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."


def _table(compared: DatasetComparison) -> str:
    titles = ("documents", "more", "tokens", "more", "equal buckets", "different", "only in one")
    rows = [["subset", *titles]]
    for name, one in compared.subsets.items():
        alone = len(one.only_in_first) + len(one.only_in_second)
        buckets = (one.equal_buckets, len(one.different_buckets), alone)
        rows.append([
            name,
            *_counts(one, "documents"),
            *_counts(one, "tokens"),
            *(f"{count:,}" for count in buckets),
        ])  # fmt: skip
    note = "documents and tokens are those of the first dataset; 'more' is what the second has more"
    return f"{aligned(narrowed(rows, result_columns(), spare=_SPARE))}\n({note})"


def _counts(one: SubsetDifference, name: str) -> tuple[str, str]:
    """Return a count of the first dataset, and how many more the second has."""

    def value(counts: SubsetCounts | None) -> int:
        return 0 if counts is None else int(getattr(counts, name))

    more = value(one.second) - value(one.first)
    return f"{value(one.first):,}", f"{more:+,}" if more else "0"


_SAID = {
    "ids": "the first id that differs is token",
    "document ends": "the ids are the same, but a document ends in one alone after token",
    "rows": "the ids are the same, but other conversations are packed together, from row",
    "mask": "the ids are the same, but other tokens are supervised, from token",
}


def _difference(one: BucketDifference) -> Sequence[str]:
    lines = [f"bucket {one.bucket}: {_SAID[one.kind]} {one.token:,}"]
    for which, place in (("first ", one.first), ("second", one.second)):
        lines += [f"  {which}  {line}" for line in _place(place)]
    return lines


def _place(place: PlaceInBucket) -> list[str]:
    if place.document is None:
        return ["the bucket ends before"]
    lines = [
        f"document {place.document:,}, token {place.offset:,} of it",
        f"ids   {' '.join(map(str, place.ids))}",
    ]
    if place.text is not None:
        lines.append(f"text  {json.dumps(without_controls(place.text), ensure_ascii=False)}")
    return lines
