"""The compiled part of the encoder: it cuts texts into units, and looks up or merges each.

1. The cuts of 64 bytes are marked in the bits of a word. A branch at each byte would be predicted
   wrongly at each unit, and cost more than all the rest.
2. A unit's ids are in the memo (memo.py). Most units are found at the first look, and only that
   look is written out in ``encode``.
3. A unit that is not there is encoded by ``_merge``, as sentencepiece does: of all neighbours that
   make a piece, join those with the best score, the leftmost of equal ones, until none is left.
4. A unit of more than ``LONGEST_UNIT_BYTES`` is only reported. The time of ``_merge`` grows with
   the square of the length, sentencepiece's does not.

This module imports numba: only compiled.py imports it, where text is encoded. All compiled
functions are in this file, because numba's cache does not notice a change of another file.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from mobilellama.tokenize.encoding.memo import (
    ID_BITS,
    IDS,
    INLINE_IDS,
    KEY_BYTES,
    LONGEST_UNIT_BYTES,
    MERGED,
    SHORT_BYTES,
    Memo,
)
from mobilellama.tokenize.encoding.merges import MIX, Merges

Bytes = NDArray[np.uint8]
Ids = NDArray[np.int32]
Symbols = NDArray[np.int32]
"""Room for a unit's symbols, (3, ``LONGEST_UNIT_BYTES``): see ``_merge``."""
Place = int | np.int64
"""An index or a count. To numba both are int64."""
Key = tuple[np.uint64, np.uint64, np.uint64]
"""The first three words of an entry (memo.py)."""

# Words are unsigned, places are signed: numba makes a float of a sum of both.
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_ID_BITS, _TWO_IDS = np.uint64(ID_BITS), np.uint64(2 * ID_BITS)
_ID_MASK = np.uint64((1 << ID_BITS) - 1)
_COUNT_SHIFT = np.uint64(INLINE_IDS * ID_BITS)
_LENGTH_SHIFT = np.uint64(56)
_LONG_MARK = np.uint64(0xFF << 56)
_PLACE_BITS, _PLACE_MASK = np.uint64(51), np.uint64((1 << 51) - 1)

# Odd numbers without a pattern, the last two from SplitMix64 and MurmurHash3.
_MIX_0, _MIX_1, _MIX_2 = (
    np.uint64(MIX),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0xFF51AFD7ED558CCD),
)
_FOLD = np.uint64(29)

_BLOCK = 64  # bytes, and bits of a word
_NO_RANK = np.int32(2**31 - 1)

_MASKS = np.array(
    [[(1 << 8 * min(max(length - 8 * word, 0), 8)) - 1 for word in range(3)]
     for length in range(SHORT_BYTES + 1)],
    np.uint64,
)  # fmt: skip
"""For each length of a unit, the bytes of three words that belong to it."""


@intrinsic
def _lowest_bit(_: object, word: object) -> Any:
    """Return the number of the lowest set bit of a word that is not zero."""
    del word

    # llvmlite does not say what its builder returns.
    def generate(_: object, builder: Any, __: object, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@njit(nogil=True)
def encode(
    text: Bytes,
    words: NDArray[np.uint64],
    bounds: NDArray[np.int64],
    skipped: int,
    eos_id: int,
    cuts: NDArray[np.uint8],
    merges: Merges,
    memo: Memo,
    scratch: Symbols,
    out: Ids,
    lengths: NDArray[np.int64],
    long_units: NDArray[np.int64],
) -> tuple[int, int]:
    """Write the ids of documents, each ended by EOS.

    Args:
        text: a space before each document, all documents, at least 64 bytes of anything.
        words: of each place of `text` the 8 bytes from there on.
        bounds: the place of each document's space, and the end of the last document.
        skipped: 1: the space before a document is not part of it. 0: it is.
        eos_id: written after each document.
        cuts: see ``cut_table``.
        merges: the model's tables.
        memo: read and filled.
        scratch: room for a unit's symbols, see ``_merge``.
        out: room for an id for each byte of `text` and each document.
        lengths: filled with the ids of each document, those of long units left out.
        long_units: filled with the start, the end, the place in `out` and the document of each
            long unit.

    Returns:
        The number of ids, and of long units.
    """
    table, shift, masks, ids, counts = memo.table, memo.shift, _MASKS, memo.ids, memo.counts
    written = num_long = 0
    for document in range(lengths.size):
        start, end, before = bounds[document] + skipped, bounds[document + 1], written
        if end == bounds[document] + 1:
            end = start  # an empty document has not even the space before it
        unit = start
        for block in range(start, end, _BLOCK):
            marks = _ZERO
            for k in range(_BLOCK):
                pair = np.int64(text[block + k]) | np.int64(text[block + k + 1]) << 8
                marks |= np.uint64(cuts[pair]) << np.uint64(k)
            if end - block <= _BLOCK:  # the document's end is a cut, what follows is not its own
                last = _ONE << np.uint64(end - block - 1)
                marks = marks & (last - _ONE) | last
            while marks != _ZERO:
                stop = block + _lowest_bit(marks) + 1  # pyright: ignore[reportCallIssue]
                marks &= marks - _ONE
                length = stop - unit
                if length <= SHORT_BYTES:
                    first = words[unit] & masks[length, 0]
                    second = words[unit + 8] & masks[length, 1]
                    third = words[unit + 16] & masks[length, 2] | np.uint64(length) << _LENGTH_SHIFT
                    mixed = _mix(first * _MIX_0 + second * _MIX_1 + third * _MIX_2)
                    slot = mixed >> shift  # unsigned: no index from the end, so no test for it
                    if (
                        table[slot, 0] == first
                        and table[slot, 1] == second
                        and table[slot, 2] == third
                    ):
                        value = table[slot, 3]
                        if value >> _COUNT_SHIFT != _ZERO:
                            # Always three: a loop over one or two would be predicted wrongly.
                            out[written] = np.int32(value & _ID_MASK)
                            out[written + 1] = np.int32(value >> _ID_BITS & _ID_MASK)
                            out[written + 2] = np.int32(value >> _TWO_IDS & _ID_MASK)
                            written += np.int64(value >> _COUNT_SHIFT)
                            unit = stop
                            continue
                        place, count = np.int64(value & _PLACE_MASK), np.int64(value >> _PLACE_BITS)
                        if counts[IDS] - place <= ids.size:
                            for k in range(count):
                                out[written + k] = ids[place + k & ids.size - 1]
                            written += count
                            unit = stop
                            continue
                elif length <= LONGEST_UNIT_BYTES:
                    first, second = _hash_bytes(text, unit, stop), _ZERO
                    third = np.uint64(length) | _LONG_MARK
                    slot = first >> shift
                else:
                    long_units[num_long, 0] = unit
                    long_units[num_long, 1] = stop
                    long_units[num_long, 2] = written
                    long_units[num_long, 3] = document
                    num_long += 1
                    unit = stop
                    continue
                key = first, second, third
                own = np.int64(slot)
                written = _encode_unit(
                    text, unit, stop, key, own, merges, memo, scratch, out, written
                )
                unit = stop
        out[written] = eos_id
        written += 1
        lengths[document] = written - before
    return int(written), int(num_long)


@njit(nogil=True)
def _mix(word: np.uint64) -> np.uint64:
    """Return a word whose high bits depend on all bits."""
    return (word ^ word >> _FOLD) * _MIX_2


@njit(nogil=True)
def _hash_bytes(text: Bytes, start: Place, stop: Place) -> np.uint64:
    word = _ZERO
    for i in range(start, stop):
        word = (word ^ np.uint64(text[i])) * _MIX_0
    return _mix(word)


@njit(nogil=True)
def _encode_unit(
    text: Bytes, start: Place, stop: Place, key: Key, own: Place, merges: Merges, memo: Memo,
    scratch: Symbols, out: Ids, written: Place,
) -> Place:  # fmt: skip
    """Write a unit's ids, from the memo or by merging; return where the next ids go.

    `key` holds the three words of its entry, `own` is its slot.
    """
    table, ids, counts = memo.table, memo.ids, memo.counts
    slot = own
    for other in range(4):
        slot = own ^ other
        if table[slot, 2] == _ZERO:
            break
        if not _is_unit(text, start, stop, key, memo, slot):
            continue
        value = table[slot, 3]
        if value >> _COUNT_SHIFT == _ZERO:
            place, count = np.int64(value & _PLACE_MASK), np.int64(value >> _PLACE_BITS)
            if counts[IDS] - place > ids.size:
                break  # overwritten
            for k in range(count):
                out[written + k] = ids[place + k & ids.size - 1]
        else:
            count = np.int64(value >> _COUNT_SHIFT)
            for k in range(count):
                out[written + k] = np.int32(value >> np.uint64(k) * _ID_BITS & _ID_MASK)
        _exchange(table, own, slot)
        return written + count
    else:
        slot = own ^ 1 + counts[MERGED] % 3  # all four are taken: one of the others in turn
    count = _merge(text, start, stop, merges, scratch)
    for k in range(count):
        out[written + k] = scratch[0, k]
    counts[MERGED] += 1
    _exchange(table, own, slot)
    _remember(text, start, stop, key, own, memo, scratch, count)
    return written + count


@njit(nogil=True)
def _is_unit(text: Bytes, start: Place, stop: Place, key: Key, memo: Memo, slot: Place) -> bool:
    """Return whether a slot's entry is that of a unit."""
    table, keys = memo.table, memo.keys
    if table[slot, 2] != key[2] or table[slot, 0] != key[0]:
        return False
    if stop - start <= SHORT_BYTES:
        return table[slot, 1] == key[1]
    place = np.int64(table[slot, 1])
    if memo.counts[KEY_BYTES] - place > keys.size:
        return False  # overwritten
    for k in range(stop - start):
        if keys[place + k & keys.size - 1] != text[start + k]:
            return False
    return True


@njit(nogil=True)
def _exchange(table: NDArray[np.uint64], a: Place, b: Place) -> None:
    for k in range(4):
        table[a, k], table[b, k] = table[b, k], table[a, k]


@njit(nogil=True)
def _remember(
    text: Bytes,
    start: Place,
    stop: Place,
    key: Key,
    slot: Place,
    memo: Memo,
    scratch: Symbols,
    count: Place,
) -> None:
    """Put the unit of the symbols in `scratch` into a slot of the memo."""
    table, keys, ids, counts = memo.table, memo.keys, memo.ids, memo.counts
    second = key[1]
    if count <= INLINE_IDS:
        value = np.uint64(count) << _COUNT_SHIFT
        for k in range(count):
            value |= np.uint64(scratch[0, k]) << np.uint64(k) * _ID_BITS
    else:
        value = np.uint64(counts[IDS]) | np.uint64(count) << _PLACE_BITS
        for k in range(count):
            ids[counts[IDS] + k & ids.size - 1] = scratch[0, k]
        counts[IDS] += count
    if stop - start > SHORT_BYTES:
        second = np.uint64(counts[KEY_BYTES])
        for k in range(stop - start):
            keys[counts[KEY_BYTES] + k & keys.size - 1] = text[start + k]
        counts[KEY_BYTES] += stop - start
    table[slot, 0], table[slot, 1], table[slot, 2], table[slot, 3] = key[0], second, key[2], value


@njit(nogil=True)
def _merge(text: Bytes, start: Place, stop: Place, merges: Merges, scratch: Symbols) -> Place:
    """Write a unit's symbols into row 0 of `scratch`; return their number.

    Row 1 holds the piece of each symbol and the next one, row 2 the rank of that piece.
    """
    count = _split(text, start, stop, merges, scratch)
    for k in range(count - 1):
        _find(k, merges, scratch)
    while True:
        best, at = _NO_RANK, -1
        for k in range(count - 1):
            if scratch[2, k] < best:
                best, at = scratch[2, k], k
        if at < 0:
            return count
        scratch[0, at] = scratch[1, at]
        count -= 1
        for k in range(at + 1, count):
            scratch[0, k] = scratch[0, k + 1]
            scratch[1, k] = scratch[1, k + 1]
            scratch[2, k] = scratch[2, k + 1]
        if at > 0:
            _find(at - 1, merges, scratch)
        if at < count - 1:
            _find(at, merges, scratch)


@njit(nogil=True)
def _split(text: Bytes, start: Place, stop: Place, merges: Merges, scratch: Symbols) -> Place:
    """Write the symbols of UTF-8: of each character one, or its bytes'; return their number."""
    character_ids, byte_ids = merges.character_ids, merges.byte_ids
    count, i = 0, start
    while i < stop:
        code, size = np.int64(text[i]), 1
        if code >= 0xF0:
            code, size = code & 0x07, 4
        elif code >= 0xE0:
            code, size = code & 0x0F, 3
        elif code >= 0xC0:
            code, size = code & 0x1F, 2
        for k in range(1, size):
            code = code << 6 | np.int64(text[i + k]) & 0x3F
        if character_ids[code] >= 0:
            scratch[0, count] = character_ids[code]
            count += 1
        else:
            for k in range(size):
                scratch[0, count + k] = byte_ids[text[i + k]]
            count += size
        i += size
    return count


@njit(nogil=True)
def _find(k: Place, merges: Merges, scratch: Symbols) -> None:
    """Look up the piece of symbols k and k + 1, and its rank."""
    table = merges.table
    pair = np.uint64(scratch[0, k]) << _ID_BITS | np.uint64(scratch[0, k + 1])
    place = np.int64(pair * _MIX_0 >> merges.shift)
    scratch[2, k] = _NO_RANK
    while table[place] != _ZERO:
        if table[place] >> _ID_BITS == pair:
            piece = np.int32(table[place] & _ID_MASK)
            scratch[1, k], scratch[2, k] = piece, merges.ranks[piece]
            return
        place = place + 1 & table.size - 1
