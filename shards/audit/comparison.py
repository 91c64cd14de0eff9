"""Compare drawn documents of a source with what their bucket holds, id for id.

Position p of a bucket holds the document number ``permute(p)`` of its source. The permutation has
an inverse, so a document is found by arithmetic.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mobilellama.shards.audit.records import AuditedRecord, read_records
from mobilellama.shards.buckets import Buckets
from mobilellama.shards.dataset import Slice
from mobilellama.shards.permute import Permutation

Encode = Callable[[str], list[int]]
"""Returns a text's ids, without EOS."""

_LINES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".json.gz", ".json.zst")


@dataclass(frozen=True, kw_only=True)
class AuditMismatch:
    """A document that is not in its bucket as it should be, or a wrong number of documents."""

    bucket: str
    """``SUBSET/NNNNN``."""
    document: int | None
    """Its number in the bucket, from 0. None: the number of documents is wrong."""
    source: str
    """The source file, and the line or row where there is one."""
    fault: str


@dataclass(kw_only=True)
class BucketAudit:
    """What was found in a bucket."""

    subset: str
    compared: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Records that were passed on the way and gave no document, by reason."""
    mismatches: list[AuditMismatch] = field(default_factory=list)

    def add(self, slice_: Slice, *, document: int | None, source: str, fault: str) -> None:
        """Add a mismatch."""
        found = AuditMismatch(bucket=slice_.name, document=document, source=source, fault=fault)
        self.mismatches.append(found)


def compare_bucket(
    buckets: Buckets,
    slice_: Slice,
    sources: str,
    drawn: Collection[int],
    encode: Encode,
    advance: Callable[[int], None],
) -> BucketAudit:
    """Compare documents of a slice with its bucket.

    The source is read up to the last of them. It is read to its end, and its documents are
    counted, if the last of the bucket is among them or if something differs.

    Args:
        buckets: the dataset's.
        slice_: of the plan.
        sources: the corpus, as ``shards audit`` was given it.
        drawn: numbers of documents in the source's order.
        encode: of the dataset's tokenizer.
        advance: told how many bytes (or rows) more were read.

    Raises:
        ConfigError: the corpus has no such file or dataset.
        DataError: the source or a file of the bucket cannot be read, or has another size.
    """
    bucket = _Bucket(buckets, slice_)
    audit, left, number, read = BucketAudit(subset=slice_.subset), set(drawn), 0, 0
    if bucket.count != (known := buckets.row(slice_.name)["documents"]):
        fault = f"{bucket.count:,} documents in the .idx, but {known:,} in the manifest"
        audit.add(slice_, document=None, source=slice_.source, fault=fault)
    for line, record in enumerate(read_records(slice_, sources), 1):
        advance(record.read - read)
        read = record.read
        if record.skipped:
            audit.skipped[record.skipped] += 1
            continue
        if number in left:
            left.remove(number)
            audit.compared += 1
            document, fault = bucket.compare(number, encode(record.text))
            if fault:
                place = _where(slice_, record, line)
                audit.add(slice_, document=document, source=place, fault=fault)
        number += 1
        if not left and not audit.mismatches and number < bucket.count:
            break
    else:
        if number != bucket.count:
            fault = f"{number:,} documents, but the bucket has {bucket.count:,}"
            audit.add(slice_, document=None, source=slice_.source, fault=fault)
            audit.mismatches.insert(0, audit.mismatches.pop())  # it explains the others
    advance(slice_.end - slice_.start - read)
    return audit


class _Bucket:
    """A bucket's documents by their number in the source."""

    def __init__(self, buckets: Buckets, slice_: Slice) -> None:
        self._index = buckets.bucket_index(slice_.name)
        self._ids = buckets.bucket_tokens(slice_.name, buckets.row(slice_.name)["tokens"])
        self._eos_id = buckets.identity.eos_id
        self.count = len(self._index.lengths)
        key = (buckets.identity.seed, slice_.subset, slice_.bucket)
        self._permutation = Permutation(self.count, *key) if self.count else None

    def compare(self, number: int, ids: list[int]) -> tuple[int | None, str]:
        """Return a document's place, and how it differs from these ids and EOS ("": not)."""
        if self._permutation is None or number >= self.count:
            return None, f"not one of the {self.count:,} documents of the bucket"
        document = int(self._permutation.inverse(number))
        start, length = self._index.span(document)
        expected = np.array([*ids, self._eos_id])
        return document, _difference(self._ids[start : start + length], expected)


def _difference(found: NDArray[np.integer], expected: NDArray[np.integer]) -> str:
    """Return how a document's ids differ, EOS included; an empty string if they do not."""
    if np.array_equal(found, expected):
        return ""
    shared = min(len(found), len(expected))
    unequal = np.flatnonzero(found[:shared] != expected[:shared])
    lengths = f"{len(found):,} ids, expected {len(expected):,}"
    if not len(unequal):
        return lengths
    at = int(unequal[0])
    return f"id {at:,} is {found[at]}, expected {expected[at]} ({lengths})"


def _where(slice_: Slice, record: AuditedRecord, number: int) -> str:
    """Return a record's source, and its line or row.

    Args:
        slice_: what it was read of.
        record: the record.
        number: its number in the slice, from 1.
    """
    if slice_.unit != "bytes" or not slice_.source.partition("#")[0].endswith(_LINES):
        return f"{slice_.source}, record {record.place:,}"
    within = f" from byte {slice_.start:,} on" if slice_.start else ""
    return f"{slice_.source}, line {number:,}{within} (byte {record.place:,})"
