"""Texts -> ids with a sentencepiece model. hf_encoder.py does it with any other tokenizer.

The output is sentencepiece's, id for id, with EOS after each document. How it gets there may
change; ``ENCODER_VERSION`` rises only if the ids do.

1. Most models let a text be cut into units that are encoded one by one (cuts.py). Then the kernel
   encodes it, about thirty times faster than sentencepiece.
2. For other models sentencepiece encodes whole documents. The caller says so, with ``why_plain``.
"""

import os

import numpy as np
from numpy.typing import NDArray

from mobilellama.config import DataError
from mobilellama.shards.format import dtype_for_vocabulary, little_endian
from mobilellama.tokenize.encoding.cuts import find_obstacle
from mobilellama.tokenize.encoding.fast_encoding import FastEncoding
from mobilellama.tokenize.encoding.memo import MEMO_BYTES
from mobilellama.tokenizers.sentencepiece_model import CONTROL
from mobilellama.tokenizers.tokenizer import Tokenizer

ENCODER_VERSION = 1


class Encoder:
    """Encodes batches of documents with one sentencepiece model, on one thread.

    Args:
        tokenizer: the model.
        plain: whether sentencepiece encodes, although the kernel could.
        memo_bytes: memory of the kernel's memo.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, plain: bool = False, memo_bytes: int = MEMO_BYTES
    ) -> None:
        self.tokenizer = tokenizer
        self.dtype = little_endian(dtype_for_vocabulary(tokenizer.vocab_size))
        pieces = tokenizer.proto.pieces
        self._from_text = np.array([piece.type != CONTROL for piece in pieces])
        if tokenizer.proto.trainer_spec.byte_fallback:
            self._from_text[tokenizer.unk_id] = False
        is_fast = not plain and why_plain(tokenizer) is None
        self._fast = FastEncoding(tokenizer, memo_bytes) if is_fast else None

    @property
    def is_fast(self) -> bool:
        """Whether the kernel encodes, and not sentencepiece."""
        return self._fast is not None

    def encode_batch(
        self, texts: list[str], *, begins: bool = True
    ) -> tuple[NDArray[np.integer], NDArray[np.int32]]:
        """Encode documents.

        Args:
            texts: without lone surrogates.
            begins: False: each text continues another one, and has no space put before it.

        Returns:
            ids: all documents' ids, one document after another, each ended by EOS.
            lengths: ids of each document, EOS included.

        Raises:
            DataError: a text became an id that no text can have.
        """
        if self._fast is None:
            return self._encode_plain(texts, begins)
        ids, lengths = self._fast.encode(texts, begins=begins)
        _require_text_ids_and_ends(ids, lengths, self._from_text)
        return ids.astype(self.dtype), lengths.astype(np.int32)

    def _encode_plain(
        self, texts: list[str], begins: bool
    ) -> tuple[NDArray[np.integer], NDArray[np.int32]]:
        eos_id = self.tokenizer.eos_id
        processor = self.tokenizer.processor if begins else self.tokenizer.continuing
        encoded = processor.encode(texts, out_type="numpy", num_threads=1)
        lengths = np.fromiter(map(len, encoded), np.int32, len(encoded))
        flat = np.concatenate(encoded) if encoded else np.empty(0, np.int32)
        require_text_ids(flat, self._from_text)
        return with_ends(flat, lengths, eos_id, self.dtype)


def with_ends(
    flat: NDArray[np.int32], lengths: NDArray[np.int32], eos_id: int, dtype: np.dtype
) -> tuple[NDArray[np.integer], NDArray[np.int32]]:
    """Return the ids of documents with EOS after each, and their lengths with EOS.

    Args:
        flat: the ids of all documents, one after another, without EOS.
        lengths: ids of each document, without EOS.
        eos_id: id that ends a document.
        dtype: of the result.
    """
    lengths = lengths + 1
    ends = np.cumsum(lengths, dtype=np.int64)
    ids = np.full(int(ends[-1]) if len(ends) else 0, eos_id, dtype)
    is_text = np.ones(len(ids), bool)
    is_text[ends - 1] = False
    ids[is_text] = flat
    return ids, lengths


def why_plain(tokenizer: Tokenizer) -> str | None:
    """Return why sentencepiece has to encode a model's texts. None: the kernel can."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "NUMBA_DISABLE_JIT is set"
    return find_obstacle(tokenizer)


def _require_text_ids_and_ends(
    ids: NDArray[np.int32], lengths: NDArray[np.int64], from_text: NDArray[np.bool_]
) -> None:
    """Raise DataError if an id between the documents' ends is none of text."""
    # To look each id up takes a tenth of the encoding. To compare with a range takes a hundredth,
    # and the ids that no text has are a few ranges, mostly one.
    edges = np.flatnonzero(np.diff(from_text, prepend=True, append=True)).reshape(-1, 2)
    wrong = sum(
        int(np.count_nonzero((ids >= first) & (ids < stop))) for first, stop in edges.tolist()
    )
    if wrong != len(lengths) or (len(ids) and int(ids.max()) >= len(from_text)):
        require_text_ids(np.delete(ids, np.cumsum(lengths) - 1), from_text)


def require_text_ids(ids: NDArray[np.integer], from_text: NDArray[np.bool_]) -> None:
    """Raise DataError if there is an id that text cannot have.

    A special id would end a document in its middle, as it does with encoders that take a
    literal "</s>" for the piece; <unk>, where the model has bytes, would lose text.

    Args:
        ids: encoded text, without EOS.
        from_text: for each id of the vocabulary, whether text may become it.
    """
    if not ids.size or (ids.max() < len(from_text) and from_text[ids].all()):
        return
    wrong = [int(i) for i in np.unique(ids) if i >= len(from_text) or not from_text[i]]
    raise DataError(
        f"text was encoded as ids {wrong[:5]}, which are special or outside the model's "
        f"{len(from_text):,} pieces. Use another tokenizer model"
    )
