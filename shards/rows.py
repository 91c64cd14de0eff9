"""The packed rows that finetuning's samples are: several conversations, each token masked or not.

A row is a document of the bucket's index and its sequences are the conversations. It holds at
most ``seq_len`` tokens; who makes a batch pads it. A conversation's first token is never
supervised, so that no label reaches from one conversation into the next.

``TokenDataset.view`` makes them; memory does not grow with the samples.
"""

import bisect
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mobilellama.shards.buckets import Buckets
from mobilellama.shards.dataset import bucket_name
from mobilellama.shards.format import BucketIndex
from mobilellama.shards.manifest import PackedManifestRow
from mobilellama.shards.windows import Span, Split


class Rows:
    """Packed rows, numbered through the buckets of a subset."""

    def __init__(self, dataset: Buckets, subset: str, split: Split) -> None:
        self._dataset, self.subset = dataset, subset
        self.tail_tokens = 0  # packing leaves nothing out
        self.seq_len = dataset.identity.rows.seq_len
        packed = cast(list[PackedManifestRow], dataset.manifest)
        manifest = [row for row in packed if row["subset"] == subset]
        self._names = [bucket_name(subset, row["bucket"]) for row in manifest]
        self._bucket_tokens = [row["tokens"] for row in manifest]
        train = np.array([row["train_rows"] for row in manifest], dtype=np.int64)
        total = np.array([row["rows"] for row in manifest], dtype=np.int64)
        first = np.zeros_like(train) if split == "train" else train
        counts = train if split == "train" else total - train
        ends = np.cumsum(counts)
        self._ends: list[int] = ends.tolist()
        # Row s of the subset is row s + origin_i of bucket i.
        self._origins: list[int] = (first - (ends - counts)).tolist()

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._ends[-1] if self._ends else 0

    def _place(self, sample: int) -> tuple[int, BucketIndex, slice]:
        """Return (which of the subset's buckets, its index, the row's sequences)."""
        assert 0 <= sample < len(self), (self.subset, sample, len(self))
        i = bisect.bisect_right(self._ends, sample)
        row, index = self._origins[i] + sample, self._dataset.bucket_index(self._names[i])
        return i, index, slice(int(index.documents[row]), int(index.documents[row + 1]))

    def span(self, sample: int) -> Span:
        """Return where a row's tokens are."""
        i, index, sequences = self._place(sample)
        return Span(
            bucket=self._names[i],
            bucket_tokens=self._bucket_tokens[i],
            start=index.span(sequences.start)[0],
            length=int(index.lengths[sequences].sum()),
        )

    def tokens(self, sample: int) -> NDArray[np.integer]:
        """Return the row's ids, (at most seq_len,), mapped from its bucket, read-only."""
        span = self.span(sample)
        ids = self._dataset.bucket_tokens(span.bucket, span.bucket_tokens)
        return ids[span.start : span.start + span.length]

    def mask(self, sample: int) -> NDArray[np.uint8]:
        """Return a byte for each of the row's tokens: 1 where it is supervised."""
        span = self.span(sample)
        mask = self._dataset.bucket_mask(span.bucket, span.bucket_tokens)
        return mask[span.start : span.start + span.length]

    def supervised(self, sample: int) -> int:
        """Return how many of the row's tokens are supervised."""
        return int(self.mask(sample).sum(dtype=np.int64))

    def boundaries(self, sample: int) -> NDArray[np.int64]:
        """Return the offsets at which a conversation after the row's first starts."""
        _, index, sequences = self._place(sample)
        return np.cumsum(index.lengths[sequences], dtype=np.int64)[:-1]

    def read_ahead(self, sample: int) -> None:
        """Ask the kernel to read the row's pages ahead."""
        span = self.span(sample)
        self._dataset.advise(span.bucket, span.bucket_tokens, span.start, span.length)
