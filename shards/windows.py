"""The windows that pretraining's samples are cut from.

A sample is ``seq_len + 1`` consecutive tokens and samples step by ``seq_len``, so that each
token is predicted once. A shorter tail of a bucket is left out and counted. The same files
serve any ``seq_len``; no sample reaches from one bucket into the next.

``TokenDataset.windows`` makes them; memory grows with the buckets, not with the samples.
"""

import bisect
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mobilellama.shards.buckets import Buckets
from mobilellama.shards.dataset import bucket_name

Split = Literal["train", "heldout"]


@dataclass(frozen=True, kw_only=True)
class Span:
    """A sample's place: `length` tokens from token `start` of a bucket."""

    bucket: str
    """``SUBSET/NNNNN``."""
    bucket_tokens: int
    start: int
    length: int


class View(Protocol):
    """A subset's samples: ``Windows`` or ``Rows``. The order needs their number alone."""

    subset: str
    seq_len: int
    """Tokens that a sample predicts, padding included."""
    tail_tokens: int
    """Tokens that could be predicted but stand in no whole sample."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def span(self, sample: int) -> Span:
        """Return where a sample's tokens are."""
        ...

    def tokens(self, sample: int) -> NDArray[np.integer]:
        """Return the sample's ids."""
        ...

    def boundaries(self, sample: int) -> NDArray[np.int64]:
        """Return the offsets at which a new document starts inside the sample."""
        ...

    def read_ahead(self, sample: int) -> None:
        """Ask the kernel to read the sample's pages ahead."""
        ...


class Windows:
    """Samples of ``seq_len + 1`` tokens, numbered through the buckets of a subset."""

    def __init__(self, dataset: Buckets, subset: str, seq_len: int, split: Split) -> None:
        assert seq_len >= 1, seq_len
        self._dataset, self.subset, self.seq_len = dataset, subset, seq_len
        rows = [row for row in dataset.manifest if row["subset"] == subset]
        self._names = [bucket_name(subset, row["bucket"]) for row in rows]
        self._tokens = [row["tokens"] for row in rows]
        train = np.array([row["train_tokens"] for row in rows], dtype=np.int64)
        total = np.array(self._tokens, dtype=np.int64)
        first = np.zeros_like(train) if split == "train" else train
        available = train if split == "train" else total - train
        # Nothing stands before the first token that could predict it.
        predictable = np.maximum(available - 1, 0)
        counts = predictable // seq_len
        self.tail_tokens = int((predictable - counts * seq_len).sum())
        """Tokens that could be predicted but stand in no whole sample."""
        # Lists, since a scalar look-up in one takes a tenth of the time of one in an array.
        ends = np.cumsum(counts)
        self._ends: list[int] = ends.tolist()
        # Sample s of bucket i starts at token origin_i + s * seq_len, s counted in the subset.
        self._origins: list[int] = (first - (ends - counts) * seq_len).tolist()

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._ends[-1] if self._ends else 0

    def _place(self, sample: int) -> tuple[int, int]:
        """Return (which of the subset's buckets, first token); O(log buckets)."""
        assert 0 <= sample < len(self), (self.subset, sample, len(self))
        i = bisect.bisect_right(self._ends, sample)
        return i, self._origins[i] + sample * self.seq_len

    def span(self, sample: int) -> Span:
        """Return where a sample's tokens are."""
        i, start = self._place(sample)
        return Span(
            bucket=self._names[i],
            bucket_tokens=self._tokens[i],
            start=start,
            length=self.seq_len + 1,
        )

    def tokens(self, sample: int) -> NDArray[np.integer]:
        """Return the sample's ids, shape (seq_len + 1,), mapped from its bucket, read-only."""
        i, start = self._place(sample)
        ids = self._dataset.bucket_tokens(self._names[i], self._tokens[i])
        return ids[start : start + self.seq_len + 1]

    def boundaries(self, sample: int) -> NDArray[np.int64]:
        """Return the offsets, 1 to seq_len, at which a new document starts inside the sample."""
        ids = self.tokens(sample)
        return np.flatnonzero(ids[:-1] == self._dataset.identity.eos_id) + 1

    def read_ahead(self, sample: int) -> None:
        """Ask the kernel to read the sample's pages ahead."""
        i, start = self._place(sample)
        self._dataset.advise(self._names[i], self._tokens[i], start, self.seq_len + 1)
