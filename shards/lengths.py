"""How long the documents of a dataset are: counts by length, from the indexes alone.

Lengths are counted in bins: each length below about 92 tokens has one of its own, and longer ones
share bins that are about 1 % wide. A bucket's index is held at a time, so memory does not grow
with the corpus.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilellama.shards.buckets import Buckets
from mobilellama.shards.dataset import bucket_name

_OCTAVES = 31  # an index holds lengths in int32
_FINE_PER_OCTAVE, _COARSE_PER_OCTAVE = 64, 4
_AT_ONCE = 1 << 20  # lengths looked up at a time


def _edges(per_octave: int) -> NDArray[np.int64]:
    """Return the first length of each bin, and after the last bin 2 ** 31."""
    powers = 2.0 ** (np.arange(_OCTAVES * per_octave + 1) / per_octave)
    return np.unique(np.ceil(powers).astype(np.int64))


# A length is at least 2 ** (k / 4) where it is at least that number rounded up, and each coarse
# edge is a fine one too. So the coarse counts are exact.
_FINE = _edges(_FINE_PER_OCTAVE)
COARSE_EDGES = 2.0 ** (np.arange(_OCTAVES * _COARSE_PER_OCTAVE + 1) / _COARSE_PER_OCTAVE)
"""The ends of the bins of pictures: powers of 2 ** (1 / 4), up to 2 ** 31."""
_COARSE_OF_FINE = np.searchsorted(COARSE_EDGES, _FINE[:-1], side="right") - 1


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Documents (EOS included) counted by their length."""

    documents: NDArray[np.int64]
    """(fine bins,) documents of each length."""
    tokens: NDArray[np.int64]
    """(fine bins,) tokens of these documents."""

    @staticmethod
    def none() -> "Lengths":
        """Return the counts of no document."""
        bins = len(_FINE) - 1
        return Lengths(documents=np.zeros(bins, np.int64), tokens=np.zeros(bins, np.int64))

    def add(self, lengths: NDArray[np.integer]) -> None:
        """Count documents of these lengths."""
        bins = len(self.documents)
        for start in range(0, len(lengths), _AT_ONCE):
            part = np.array(lengths[start : start + _AT_ONCE])
            place = np.searchsorted(_FINE, part, side="right") - 1
            self.documents[:] += np.bincount(place, minlength=bins)
            self.tokens[:] += np.bincount(place, weights=part, minlength=bins).astype(np.int64)

    def quantile(self, share: float) -> float:
        """Return the length that a share of the documents does not exceed; 0 without documents.

        It is exact below about 92 tokens, else right to 1 %.
        """
        return _quantile(self.documents, share)

    def token_quantile(self, share: float) -> float:
        """Return the length of documents up to which a share of all tokens stands."""
        return _quantile(self.tokens, share)

    def coarse(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return documents and tokens between each two neighbours of ``COARSE_EDGES``."""
        bins = len(COARSE_EDGES) - 1
        documents, tokens = np.zeros(bins, np.int64), np.zeros(bins, np.int64)
        np.add.at(documents, _COARSE_OF_FINE, self.documents)
        np.add.at(tokens, _COARSE_OF_FINE, self.tokens)
        return documents, tokens


def _quantile(counts: NDArray[np.int64], share: float) -> float:
    total = int(counts.sum())
    if not total:
        return 0.0
    i = int(np.searchsorted(np.cumsum(counts), max(share * total, 1)))  # 0: the shortest
    first, last = int(_FINE[i]), int(_FINE[i + 1]) - 1
    return float(first) if first == last else float(np.sqrt(first * last))


def count_lengths(
    dataset: Buckets, advance: Callable[[int], None] = lambda _: None
) -> dict[str, Lengths]:
    """Count the document lengths of each subset.

    Args:
        dataset: its indexes are read, one at a time.
        advance: told how many more documents were counted.

    Raises:
        DataError: an index is missing or truncated.
    """
    counted: dict[str, Lengths] = {}
    for row in dataset.manifest:
        lengths = dataset.bucket_index(bucket_name(row["subset"], row["bucket"])).lengths
        counted.setdefault(row["subset"], Lengths.none()).add(lengths)
        advance(len(lengths))
    return dict(sorted(counted.items()))
