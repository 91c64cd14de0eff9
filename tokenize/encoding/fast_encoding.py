"""Encode texts unit by unit: the arrays around the kernel, and sentencepiece for long units."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mobilellama.tokenize.encoding.compiled import load_kernel
from mobilellama.tokenize.encoding.cuts import SPACE, cut_table
from mobilellama.tokenize.encoding.memo import LONGEST_UNIT_BYTES, MEMO_BYTES, make_memo
from mobilellama.tokenize.encoding.merges import read_merges
from mobilellama.tokenizers.tokenizer import Tokenizer

_KEPT_IDS = 4 << 20  # 16 MiB
_PADDING = bytes(64)  # the kernel reads so far beyond the end


class FastEncoding:
    """Encodes with the kernel. The model must have no obstacle (cuts.py).

    Args:
        tokenizer: the model.
        memo_bytes: memory of the memo.
    """

    def __init__(self, tokenizer: Tokenizer, memo_bytes: int = MEMO_BYTES) -> None:
        self._kernel = load_kernel()
        self._eos_id = tokenizer.eos_id
        self._skipped = 0 if tokenizer.proto.normalizer_spec.add_dummy_prefix else 1
        self._cuts = cut_table(tokenizer.normal_pieces)
        self._merges = read_merges(tokenizer)
        self.memo = make_memo(memo_bytes)
        self._scratch = np.empty((3, LONGEST_UNIT_BYTES), np.int32)
        self._out = np.empty(0, np.int32)
        self._of_units = tokenizer.continuing

    def encode(
        self, texts: Sequence[str], *, begins: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Encode documents.

        Args:
            texts: the documents.
            begins: whether each has sentencepiece's dummy prefix, where the model has one.

        Returns:
            ids: all documents' ids, each document ended by EOS. The next call overwrites them.
            lengths: ids of each document, EOS included.
        """
        data, bounds = _joined(texts)
        out, lengths, long_units = self._room(bounds)
        written, num_long = self._kernel(
            np.frombuffer(data, np.uint8),
            # A word from each byte on. numba takes it for an unaligned array, and reads it with
            # one load that x86 and ARM do at any address.
            np.ndarray(len(data) - 7, np.dtype("<u8"), data, strides=(1,)),
            bounds,
            self._skipped if begins else 1,
            self._eos_id,
            self._cuts,
            self._merges,
            self.memo,
            self._scratch,
            out,
            lengths,
            long_units,
        )
        ids = out[:written]
        if not num_long:
            return ids, lengths
        return self._with_long_units(data, ids, lengths, long_units[:num_long])

    def _room(
        self, bounds: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        num_bytes, documents = int(bounds[-1]), len(bounds) - 1
        # A byte gives one id at most, a document its EOS; three ids are written at a time.
        needed = num_bytes + documents + 2
        out = self._out if needed <= len(self._out) else np.empty(needed, np.int32)
        if needed <= _KEPT_IDS:
            self._out = out  # new memory costs more than its use; a huge document's goes again
        num_long = num_bytes // (LONGEST_UNIT_BYTES + 1)
        return out, np.empty(documents, np.int64), np.empty((num_long, 4), np.int64)

    def _with_long_units(
        self,
        data: bytes,
        ids: NDArray[np.int32],
        lengths: NDArray[np.int64],
        long_units: NDArray[np.int64],
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Insert what sentencepiece makes of the long units."""
        starts, stops, places, documents = long_units.T.tolist()
        units = [data[start:stop].decode() for start, stop in zip(starts, stops, strict=True)]
        encoded = self._of_units.encode(units, out_type="numpy", num_threads=1)
        np.add.at(lengths, documents, [len(unit) for unit in encoded])
        stretches = [ids[a:b] for a, b in pairwise([0, *places, len(ids)])]
        parts = [part for pair in zip(stretches, encoded, strict=False) for part in pair]
        return np.concatenate([*parts, stretches[-1]]), lengths


def _joined(texts: Sequence[str]) -> tuple[bytes, NDArray[np.int64]]:
    """Return all texts, a space before each, and the places of these spaces and of the end."""
    # sentencepiece puts it in place of spaces, and so it is one. Python sees without a search that
    # most texts cannot have it. A search of the joined bytes takes 7 times as long.
    parts = [(text.replace(SPACE, " ") if SPACE in text else text).encode() for text in texts]
    data = b" ".join([b"", *parts, _PADDING])
    bounds = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) + 1 for part in parts], out=bounds[1:])
    return data, bounds
