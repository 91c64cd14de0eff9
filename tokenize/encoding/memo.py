"""The memo of units that were encoded before: a hash table of a fixed size.

An entry is half a cache line, four words:

    0-2  a unit of at most 23 bytes, padded with zeros. The last byte is its length
    3    up to three ids of 20 bits, and above them how many there are

    0    the hash of a longer unit
    1    its place in ``keys``
    2    its length, below the mark 0xFF

If a unit has more ids, word 3 holds their place in ``ids`` and, from bit 51 on, how many there are.
Word 2 of a free entry is zero.

A unit has its own slot by its hash, and the other three of the same four (slot ^ 1, ^ 2, ^ 3) take
what its own slot has no room for. A unit that is new or was found elsewhere gets its own slot. If
all four are taken, one of the others is forgotten. ``keys`` and ``ids`` are rings: the oldest is
overwritten, and an entry whose part is gone counts as none. So the memory is fixed, and the memo
follows the text.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ID_BITS = 20
"""Bits of an id in an entry: a larger vocabulary has no memo."""
INLINE_IDS = 3
"""So many ids fit into an entry."""
SHORT_BYTES = 23
"""A longer unit's bytes lie outside of its entry."""
LONGEST_UNIT_BYTES = 256
"""A longer unit has no entry, and goes to sentencepiece."""

MEMO_BYTES = 1 << 25
"""Memory of an encoder's memo. 16 MiB of entries hold 524,288 units."""

KEY_BYTES, IDS, MERGED = range(3)
"""The places of the counts."""

_ENTRY_BYTES = 32
_LEAST_BYTES = 1 << 14


class Memo(NamedTuple):
    """The arrays of a memo, which the kernel fills. Their sizes are powers of two."""

    table: NDArray[np.uint64]
    """Entries, four words each."""
    shift: np.uint64
    """How far a unit's hash is shifted right to give its slot."""
    keys: NDArray[np.uint8]
    """The bytes of longer units."""
    ids: NDArray[np.int32]
    """The ids of units with more than three."""
    counts: NDArray[np.int64]
    """Bytes ever put into ``keys`` and ids into ``ids``, and units that the memo did not have."""

    @property
    def total_bytes(self) -> int:
        """Memory of all arrays."""
        return self.table.nbytes + self.keys.nbytes + self.ids.nbytes + self.counts.nbytes


def make_memo(memo_bytes: int = MEMO_BYTES) -> Memo:
    """Return an empty memo of at most so many bytes (and the counts), but of at least 16 KiB."""
    room = 1 << (max(memo_bytes, _LEAST_BYTES).bit_length() - 1)
    slots = room // 2 // _ENTRY_BYTES
    return Memo(
        table=np.zeros((slots, 4), np.uint64),
        shift=np.uint64(64 - (slots.bit_length() - 1)),
        keys=np.zeros(room // 4, np.uint8),
        ids=np.zeros(room // 4 // 4, np.int32),
        counts=np.zeros(3, np.int64),
    )
