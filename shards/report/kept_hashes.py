"""A bounded table of documents by their hash: how often each occurs, and where first.

It holds the hashes below a limit. When they become too many, the limit is halved and the hashes
above it are dropped.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

MOST_KEPT = 1 << 22
"""Rows to hold at most; sorting them takes some 400 MB."""
_WHOLE = 1 << 64

ROW = np.dtype([
    ("hash", "<u8"),
    ("subset", "<u4"),
    ("bucket", "<u4"),
    ("document", "<u4"),
    ("tokens", "<u4"),
    ("count", "<u8"),
])  # fmt: skip
"""A text in a subset: its hash, the subset's number, the first document that has it (the bucket's
row in the manifest, the number in the bucket), its tokens, and how many documents have it."""


class KeptHashes:
    """Texts by hash and subset, of a share of all hashes."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        assert most >= 1, most
        self._most, self._limit = most, _WHOLE
        self._parts: list[NDArray[np.void]] = []
        self._waiting = 0

    @property
    def share(self) -> float:
        """Share of the hashes that are kept: 1, or a power of one half."""
        return self._limit / _WHOLE

    def add(
        self, hashes: NDArray[np.uint64], *, subset: int, bucket: int, documents: ArrayLike,
        tokens: ArrayLike,
    ) -> None:  # fmt: skip
        """Add documents of a bucket: arrays of one length."""
        rows = np.empty(len(hashes), ROW)
        rows["hash"], rows["subset"], rows["bucket"] = hashes, subset, bucket
        rows["document"], rows["tokens"], rows["count"] = documents, tokens, 1
        rows = self._below_limit(rows)
        self._parts.append(rows)
        self._waiting += len(rows)
        if self._waiting > self._most:
            self._shrink()

    def rows(self) -> NDArray[np.void]:
        """Return what is kept, (rows,) of ``ROW``, in order of hash, then subset."""
        self._parts = [_merged(np.concatenate([np.empty(0, ROW), *self._parts]))]
        return self._parts[0]

    def _shrink(self) -> None:
        """Merge equal rows, and drop hashes until half of the table is free."""
        rows = self.rows()
        while len(rows) > self._most // 2 and self._limit > 1:
            self._limit //= 2
            rows = self._below_limit(rows)
        self._parts, self._waiting = [rows], len(rows)

    def _below_limit(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        if self._limit == _WHOLE:
            return rows
        return rows[rows["hash"] < np.uint64(self._limit)]


def _merged(rows: NDArray[np.void]) -> NDArray[np.void]:
    """Return one row for each hash and subset: the first place, and the sum of the counts."""
    order = np.lexsort((rows["subset"], rows["hash"]))  # stable: of equals the first comes first
    rows = rows[order]
    is_first = np.ones(len(rows), bool)
    same_hash = rows["hash"][1:] == rows["hash"][:-1]
    is_first[1:] = ~(same_hash & (rows["subset"][1:] == rows["subset"][:-1]))
    starts = np.flatnonzero(is_first)
    merged = rows[starts]
    if len(rows):
        merged["count"] = np.add.reduceat(rows["count"], starts)
    return merged
