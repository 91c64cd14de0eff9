"""Texts -> ids: the one place where documents are encoded.

Its output is sentencepiece's, id for id, with EOS after each document. How it gets there may
change; ``ENCODER_VERSION`` rises only if the ids do.
"""

import numpy as np
from numpy.typing import NDArray

from mobilellama.config import DataError
from mobilellama.shards.format import dtype_for_vocabulary, little_endian
from mobilellama.tokenizers.tokenizer import Tokenizer

ENCODER_VERSION = 1

_CONTROL = 3  # ModelProto.SentencePiece.Type.CONTROL: <s>, </s>, <pad>


class Encoder:
    """Encodes batches of documents with one sentencepiece model, on one thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._processor = tokenizer.processor
        self._eos_id = tokenizer.eos_id
        self.dtype = little_endian(dtype_for_vocabulary(tokenizer.vocab_size))
        pieces = tokenizer.proto.pieces
        self._from_text = np.array([piece.type != _CONTROL for piece in pieces])
        if tokenizer.proto.trainer_spec.byte_fallback:
            self._from_text[tokenizer.unk_id] = False

    def encode_batch(self, texts: list[str]) -> tuple[NDArray[np.integer], NDArray[np.int32]]:
        """Encode documents.

        Args:
            texts: without lone surrogates.

        Returns:
            ids: all documents' ids, one document after another, each ended by EOS.
            lengths: ids of each document, EOS included.

        Raises:
            DataError: a text became an id that no text can have.
        """
        encoded = self._processor.encode(texts, out_type="numpy", num_threads=1)
        lengths = np.fromiter(map(len, encoded), np.int32, len(encoded))
        flat = np.concatenate(encoded) if encoded else np.empty(0, np.int32)
        require_text_ids(flat, self._from_text)
        lengths += 1
        ends = np.cumsum(lengths, dtype=np.int64)
        ids = np.full(int(ends[-1]) if len(ends) else 0, self._eos_id, self.dtype)
        is_text = np.ones(len(ids), bool)
        is_text[ends - 1] = False
        ids[is_text] = flat
        return ids, lengths


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
