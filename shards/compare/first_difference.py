"""Find the first place at which a bucket of two datasets differs.

Ids are compared by value, so that two widths of storage can be compared. If all are equal, the
documents' lengths are compared, then in datasets of packed rows the rows and the masks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mobilellama.shards.buckets import Buckets
from mobilellama.shards.format import BucketIndex

_AT_ONCE = 1 << 22
_BEFORE, _AFTER = 8, 24  # ids around the place that are shown

Decode = Callable[[list[int]], str]


@dataclass(frozen=True, kw_only=True)
class PlaceInBucket:
    """The place in one of the datasets."""

    document: int | None
    """Number of the document (or conversation) in the bucket; None: the bucket ends before."""
    offset: int
    """The token's number within the document."""
    ids: list[int]
    """Of the document, from a few before the place."""
    text: str | None
    """What they spell; None where there is no tokenizer."""


@dataclass(frozen=True, kw_only=True)
class BucketDifference:
    """The first difference of a bucket."""

    bucket: str
    """``SUBSET/NNNNN``."""
    kind: Literal["ids", "document ends", "rows", "mask"]
    token: int
    """Number of the token in the bucket: of the first one that differs, or at which a document
    ends in one dataset and not in the other. Of rows: the number of the row."""
    first: PlaceInBucket
    second: PlaceInBucket


def first_difference(
    first: Buckets, second: Buckets, bucket: str, decoders: tuple[Decode | None, Decode | None]
) -> BucketDifference | None:
    """Return where a bucket first differs; None if only its storage does.

    Args:
        first: a dataset that has the bucket.
        second: another one that has it.
        bucket: ``SUBSET/NNNNN``.
        decoders: of the two datasets' tokenizers, where there are some.

    Raises:
        DataError: a file of the bucket is missing or truncated.
    """
    sides = [_Side(dataset, bucket) for dataset in (first, second)]
    kind: Literal["ids", "document ends", "rows", "mask"] = "ids"
    place = _first_unequal(sides[0].ids, sides[1].ids)
    if place is None:
        kind = "document ends"
        ends = [np.cumsum(side.index.lengths, dtype=np.int64) for side in sides]
        at = _first_unequal(ends[0], ends[1])
        place = None if at is None else int(min(each[at] for each in ends if at < len(each))) - 1
    if place is None:
        kind = "rows"
        place = _first_unequal(sides[0].index.documents, sides[1].index.documents)
    if place is None and first.identity.packing and second.identity.packing:
        kind = "mask"
        place = _first_unequal(*(
            dataset.bucket_mask(bucket, len(side.ids))
            for dataset, side in zip((first, second), sides, strict=True)
        ))  # fmt: skip
    if place is None:
        return None
    token = place if kind != "rows" else 0
    shown = [side.around(token, decode) for side, decode in zip(sides, decoders, strict=True)]
    return BucketDifference(bucket=bucket, kind=kind, token=place, first=shown[0], second=shown[1])


class _Side:
    """A bucket of one of the datasets."""

    def __init__(self, dataset: Buckets, bucket: str) -> None:
        self.ids = dataset.bucket_tokens(bucket, dataset.row(bucket)["tokens"])
        self.index: BucketIndex = dataset.bucket_index(bucket)

    def around(self, token: int, decode: Decode | None) -> PlaceInBucket:
        """Return what stands at a token of the bucket."""
        if token >= len(self.ids):
            return PlaceInBucket(document=None, offset=0, ids=[], text=None)
        document = self.index.sequence_at(token)
        start, length = self.index.span(document)
        shown = slice(max(start, token - _BEFORE), min(start + length, token + _AFTER))
        ids = self.ids[shown].tolist()
        text = None if decode is None else decode(ids)
        return PlaceInBucket(document=document, offset=token - start, ids=ids, text=text)


def _first_unequal(first: NDArray[np.generic], second: NDArray[np.generic]) -> int | None:
    """Return where two arrays first differ, the end of the shorter one counting; None: nowhere."""
    shared = min(len(first), len(second))
    for start in range(0, shared, _AT_ONCE):
        end = min(start + _AT_ONCE, shared)
        unequal = first[start:end] != second[start:end]
        if unequal.any():
            return start + int(np.argmax(unequal))
    return None if len(first) == len(second) else shared
