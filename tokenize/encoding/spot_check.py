"""Encode one document in 2,000 again with sentencepiece, and compare, while a bucket is written.

The document is chosen by its number, so that a restart checks the same ones. The bucket's number
moves the choice: of many buckets with one document each, one in 2,000 is checked, not all.
"""

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from mobilellama.config import DataError
from mobilellama.shards.dataset import Slice
from mobilellama.tokenizers.tokenizer import Tokenizer

CHECK_EVERY = 2_000
"""One document in so many is encoded twice, which takes about a hundredth of the time."""

_SHOWN_CHARACTERS = 60


class SpotCheck:
    """Checks documents of one bucket.

    Args:
        tokenizer: the model.
        slice_: what the bucket is made of.
    """

    def __init__(self, tokenizer: Tokenizer, slice_: Slice) -> None:
        self._processor: sentencepiece.SentencePieceProcessor = tokenizer.processor
        self._slice = slice_
        self._done = 0

    def check(
        self, texts: list[str], ids: NDArray[np.integer], lengths: NDArray[np.integer]
    ) -> None:
        """Check the next documents of the bucket.

        Args:
            texts: the documents.
            ids: of all of them, each document ended by EOS.
            lengths: ids of each document, EOS included.

        Raises:
            DataError: sentencepiece gives a document other ids.
        """
        first = -(self._done + self._slice.bucket) % CHECK_EVERY
        ends = np.cumsum(lengths)
        for i in range(first, len(texts), CHECK_EVERY):
            found = ids[ends[i] - lengths[i] : ends[i] - 1]
            expected = self._processor.encode(texts[i], out_type="numpy")
            if not np.array_equal(found, expected):
                self._refuse(i, texts[i], found, expected)
        self._done += len(texts)

    def _refuse(
        self, i: int, text: str, found: NDArray[np.integer], expected: NDArray[np.integer]
    ) -> None:
        both = min(len(found), len(expected))
        differs = np.flatnonzero(found[:both] != expected[:both])
        at = int(differs[0]) if len(differs) else both
        raise DataError(
            f"{self._slice.source}: document {self._done + i:,} of bucket {self._slice.name} "
            f"(from 0, as the source has them), {text[:_SHOWN_CHARACTERS]!r}, was encoded wrongly: "
            f"token {at:,} is {found[at : at + 1].tolist()}, but sentencepiece gives "
            f"{expected[at : at + 1].tolist()}. Run the same command with --encoder sentencepiece, "
            "and report this document with the tokenizer model, because it is a fault of the "
            "fast encoder"
        )
