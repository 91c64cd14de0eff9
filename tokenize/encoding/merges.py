"""Tables of a model's BPE: the symbols of characters and bytes, and what two symbols are joined to.

``Merges.table`` is a hash table. An entry is a word: the left symbol, the right symbol and their
piece, 20 bits each. Zero is no entry, because a piece of two symbols has an id above zero.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilellama.tokenize.encoding.cuts import SPACE
from mobilellama.tokenize.encoding.memo import ID_BITS
from mobilellama.tokenizers.sentencepiece_model import BYTE
from mobilellama.tokenizers.tokenizer import Tokenizer

MIX = 0x9E3779B97F4A7C15
"""An odd number without a pattern (2^64 divided by the golden ratio)."""

_CHARACTERS = 0x110000


class Merges(NamedTuple):
    """What the kernel needs of a model."""

    character_ids: NDArray[np.int32]
    """Id of each code point. A space has that of U+2581. -1: it becomes bytes."""
    byte_ids: NDArray[np.int32]
    """Id of each byte's piece."""
    table: NDArray[np.uint64]
    """The pieces of pairs. Its size is a power of two."""
    shift: np.uint64
    """How far the hash of a pair is shifted right to give its place in the table."""
    ranks: NDArray[np.int32]
    """For each id the place of its score among all scores, the best first; equal if equal."""


def read_merges(tokenizer: Tokenizer) -> Merges:
    """Return the tables of a model that has no obstacle (cuts.py)."""
    pieces = tokenizer.normal_pieces
    character_ids = np.full(_CHARACTERS, -1, np.int32)
    for piece, i in pieces.items():
        if len(piece) == 1:
            character_ids[ord(piece.replace(SPACE, " "))] = i
    byte_ids = np.zeros(256, np.int32)
    for i, piece in enumerate(tokenizer.proto.pieces):
        if piece.type == BYTE:
            byte_ids[int(piece.piece[1:-1], 16)] = i  # <0x0A>
    scores = np.array([piece.score for piece in tokenizer.proto.pieces], np.float32)
    ranks = np.unique(-scores, return_inverse=True)[1].astype(np.int32)
    table, shift = _hash_table(np.array(_entries(pieces), np.uint64))
    return Merges(character_ids, byte_ids, table, shift, ranks)


def _entries(pieces: dict[str, int]) -> list[int]:
    """Return an entry for each way to make a piece of two others."""
    entries = []
    for piece, i in pieces.items():
        for k in range(1, len(piece)):
            left = pieces.get(piece[:k])
            if left is not None and (right := pieces.get(piece[k:])) is not None:
                entries.append(left << 2 * ID_BITS | right << ID_BITS | i)
    return entries


def _hash_table(entries: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], np.uint64]:
    """Put entries into a table that is at most half full, each at the next free place."""
    bits = max(1, (2 * len(entries)).bit_length())
    shift = np.uint64(64 - bits)
    table = np.zeros(1 << bits, np.uint64)
    places = ((entries >> np.uint64(ID_BITS)) * np.uint64(MIX) >> shift).astype(np.int64)
    waiting = np.arange(len(entries))
    while len(waiting):
        wanted = places[waiting]
        is_free = table[wanted] == 0
        table[wanted[is_free]] = entries[waiting[is_free]]  # of several, the last stays
        waiting = waiting[table[wanted] != entries[waiting]]
        places[waiting] = (places[waiting] + 1) & (len(table) - 1)
    return table, shift
