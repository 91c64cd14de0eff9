"""Count the documents that occur more than once, id for id, in bounded time and memory.

1. Time: if the dataset has more tokens than may be read, only documents of some lengths are read.
   The lengths are drawn at random. Equal documents have equal lengths, so all copies of a document
   are read, or none.
2. A document's 64-bit hash (blake2b of its ids) stands for it.
3. Memory: only hashes below a limit are kept, at first all. If there are too many, the limit is
   halved and the hashes above it are dropped. All copies of a document have the same hash, so
   again all are kept, or none. This is Gibbons' distinct sampling (VLDB 2001, "Distinct Sampling
   for Highly-Accurate Answers to Distinct Values Queries and Event Reports").

So what is counted among the documents that are kept is an estimate for all. Nothing is estimated
where the share is 1.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilellama.config import DataError
from mobilellama.shards.buckets import Buckets
from mobilellama.shards.dataset import bucket_name
from mobilellama.shards.format import BucketIndex
from mobilellama.shards.permute import Permutation
from mobilellama.shards.report.kept_hashes import MOST_KEPT, KeptHashes

_LENGTHS = 1 << 31  # an index holds lengths in int32
_AT_ONCE = 1 << 14  # documents between two words of progress
_HASH_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class DuplicateCounts:
    """What was counted among the documents that were compared."""

    documents: int
    copies: int
    """Documents beyond the first of each text."""
    tokens: int
    copied_tokens: int
    """Tokens of the copies."""


@dataclass(frozen=True, kw_only=True)
class RepeatedDocument:
    """A text that several documents have."""

    count: int
    subsets: dict[str, int]
    """Documents by subset, most first."""
    bucket: str
    """Of the first one."""
    document: int
    """Number of the first one in its bucket."""


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """What was found."""

    share: float
    """Of all documents, how many were compared as the draw has it: 1, or less than 1."""
    total: DuplicateCounts
    """Between subsets too."""
    subsets: dict[str, DuplicateCounts]
    """Within each subset."""
    repeated: list[RepeatedDocument]
    """The most frequent ones, most first."""


def find_duplicates(
    dataset: Buckets,
    *,
    max_tokens: float,
    seed: int,
    most: int,
    advance: Callable[[int], None],
    most_kept: int = MOST_KEPT,
) -> Duplicates:
    """Count equal documents.

    Args:
        dataset: its .bin and .idx files are read.
        max_tokens: about how many tokens to read at most.
        seed: decides which lengths are read.
        most: how many repeated documents to name.
        advance: told of tokens that were looked at or passed over.
        most_kept: texts to hold at most.

    Raises:
        DataError: a file of a bucket is missing or truncated.
    """
    total = sum(row["tokens"] for row in dataset.manifest)
    length_share = min(1.0, max_tokens / total) if total else 1.0
    hashes = KeptHashes(most_kept)
    subsets = sorted({row["subset"] for row in dataset.manifest})
    for bucket, row in enumerate(dataset.manifest):
        name, read = bucket_name(row["subset"], row["bucket"]), 0
        index, subset = dataset.bucket_index(name), subsets.index(row["subset"])
        chosen = _chosen(index, length_share, seed)
        for documents, digests in _hashed(dataset.folder / f"{name}.bin", index, chosen):
            lengths = index.lengths[documents]
            hashes.add(digests, subset=subset, bucket=bucket, documents=documents, tokens=lengths)
            advance(int(lengths.sum(dtype=np.int64)))
            read += int(lengths.sum(dtype=np.int64))
        advance(row["tokens"] - read)
    return _counted(dataset, hashes.rows(), subsets, length_share * hashes.share, most)


def _chosen(index: BucketIndex, share: float, seed: int) -> NDArray[np.int64]:
    """Return the documents whose length is drawn."""
    if share == 1:
        return np.arange(len(index.lengths))
    lengths = np.array(index.lengths)
    drawn = Permutation(_LENGTHS, seed, "lengths")(lengths) < round(share * _LENGTHS)
    return np.flatnonzero(drawn)


def _hashed(
    path: Path, index: BucketIndex, chosen: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
    """Yield documents and their hashes, some at a time."""
    width = np.dtype(index.dtype).itemsize
    # Sequential reading is recognised by itself. For parts here and there, reading ahead would
    # fetch the whole file.
    random = len(chosen) < len(index.lengths)
    try:
        with open(path, "rb", buffering=0) as file:
            if random:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            for first in range(0, len(chosen), _AT_ONCE):
                documents = chosen[first : first + _AT_ONCE]
                digests = bytearray()
                places = zip(
                    index.byte_offsets[documents].tolist(), index.lengths[documents].tolist(),
                    strict=True,
                )  # fmt: skip
                for offset, tokens in places:
                    data = os.pread(file.fileno(), tokens * width, offset)
                    if len(data) != tokens * width:
                        raise _cut(path)
                    digests += hashlib.blake2b(data, digest_size=_HASH_BYTES).digest()
                yield documents, np.frombuffer(bytes(digests), "<u8")
    except FileNotFoundError:
        raise _cut(path) from None


def _cut(path: Path) -> DataError:
    state = "is shorter than its index says" if path.exists() else "missing"
    return DataError(f"{path}: {state}. Run 'mobilellama shards verify', which says what to do")


def _counted(
    dataset: Buckets, rows: NDArray[np.void], subsets: list[str], share: float, most: int
) -> Duplicates:
    """Count the copies.

    Args:
        dataset: what `rows` are of.
        rows: (texts in subsets,) of ``kept_hashes.ROW``, in order of hash.
        subsets: their names.
        share: of the documents that were compared.
        most: how many repeated documents to name.
    """
    starts = np.flatnonzero(np.diff(rows["hash"], prepend=rows["hash"][:1] ^ 1))
    sums = np.add.reduceat(rows["count"], starts) if len(rows) else rows["count"]
    first = rows[starts]
    # The most copies first; of equals the longest one, then the lowest hash.
    order = np.lexsort((-first["tokens"].astype(np.int64), -sums.astype(np.int64)))[:most]
    ends = np.append(starts, len(rows))
    repeated = [
        _repeated(dataset, rows[ends[i] : ends[i + 1]], subsets) for i in order if sums[i] > 1
    ]
    return Duplicates(
        share=share,
        total=_counts(sums, first["tokens"]),
        subsets={
            name: _counts(mine["count"], mine["tokens"])
            for i, name in enumerate(subsets)
            for mine in [rows[rows["subset"] == i]]
        },
        repeated=repeated,
    )


def _repeated(dataset: Buckets, rows: NDArray[np.void], subsets: list[str]) -> RepeatedDocument:
    """Return what is said of a text; `rows` are its rows, one a subset."""
    counts = {subsets[int(row["subset"])]: int(row["count"]) for row in rows}
    bucket = dataset.manifest[int(rows[0]["bucket"])]
    return RepeatedDocument(
        count=sum(counts.values()),
        subsets=dict(sorted(counts.items(), key=lambda item: -item[1])),
        bucket=bucket_name(bucket["subset"], bucket["bucket"]),
        document=int(rows[0]["document"]),
    )


def _counts(counts: NDArray[np.uint64], tokens: NDArray[np.uint32]) -> DuplicateCounts:
    """Sum up texts.

    Args:
        counts: documents of each text.
        tokens: of one of them.
    """
    of_all = counts.astype(np.int64) * tokens
    return DuplicateCounts(
        documents=int(counts.sum()),
        copies=int(counts.sum()) - len(counts),
        tokens=int(of_all.sum()),
        copied_tokens=int(of_all.sum()) - int(tokens.sum(dtype=np.int64)),
    )
