"""A keyed pseudo-random permutation of range(n), computed index by index.

A Feistel network of eight rounds over the smallest power of two that holds n, with cycle
walking: an image that falls outside range(n) is permuted again until it falls inside. The
round keys are blake2b of the names given as key, so (seed 3, epoch 1) has nothing to do with
(seed 4, epoch 0). Only 64-bit integer arithmetic is used: the order is part of the dataset
format and stays the same across library versions. Four rounds, which peers use, leave a
measurable serial correlation; eight do not.
"""

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Step = Callable[[NDArray[np.uint64]], NDArray[np.uint64]]
_ROUNDS = 8  # even, so that the halves have their first widths again at the end
# From so many times as many values as a half can have, each value is mixed once and then looked up:
# a period's deal of 65,536 has halves of 256 values, and takes half the time.
_TABLE_FROM = 4
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)  # splitmix64's finaliser
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)


class Permutation:
    """A bijection of range(n), keyed by names and numbers."""

    def __init__(self, n: int, *key: str | int) -> None:
        """Prepare the permutation.

        Args:
            n: number of indices, at least 1 and at most 2**62.
            key: names and numbers that select the permutation.
        """
        assert 1 <= n <= 1 << 62, n
        # np.int64(3) is written otherwise than 3, and would be another key.
        assert all(type(part) in (int, str) for part in key), key
        self.n = n
        bits = max(2, (n - 1).bit_length())
        self._left_bits, self._right_bits = bits // 2, bits - bits // 2
        # ascii keeps ("a", "b") and ("a, b",) apart, and 1 from "1"; unlike repr, it writes a
        # name the same way whatever version of Unicode Python knows.
        digest = hashlib.blake2b(ascii(key).encode(), digest_size=8 * _ROUNDS).digest()
        self._round_keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def __call__(self, index: ArrayLike) -> NDArray[np.int64]:
        """Return the images of indices (any shape, each in range(n)), as int64."""
        return self._walk(index, self._forward)

    def inverse(self, image: ArrayLike) -> NDArray[np.int64]:
        """Return the indices whose images are given."""
        return self._walk(image, self._backward)

    def _walk(self, index: ArrayLike, step: _Step) -> NDArray[np.int64]:
        start = np.asarray(index, dtype=np.uint64)
        # Negative numbers wrap to large ones. Outside range(n), the walk might never end.
        assert start.size == 0 or start.max() < self.n, (start.max(), self.n)
        # At least half of the power of two is inside (for n > 1), so a walk takes at most two steps
        # on average. It ends, because a cycle leads back to its start, which is inside.
        values = step(start.reshape(-1))
        outside = np.flatnonzero(values >= self.n)
        while outside.size:
            values[outside] = step(values[outside])
            outside = outside[values[outside] >= self.n]
        return values.astype(np.int64).reshape(start.shape)

    def _forward(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left_bits, right_bits = self._left_bits, self._right_bits
        left, right = values >> np.uint64(right_bits), values & _mask(right_bits)
        for key in self._round_keys:
            left, right = right, left ^ _mix_half(right, right_bits, left_bits, key)
            left_bits, right_bits = right_bits, left_bits
        return (left << np.uint64(right_bits)) | right

    def _backward(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left_bits, right_bits = self._left_bits, self._right_bits
        left, right = values >> np.uint64(right_bits), values & _mask(right_bits)
        for key in self._round_keys[::-1]:
            left, right = right ^ _mix_half(left, left_bits, right_bits, key), left
            left_bits, right_bits = right_bits, left_bits
        return (left << np.uint64(right_bits)) | right


def _mask(bits: int) -> np.uint64:
    return np.uint64((1 << bits) - 1)


def _mix_half(
    half: NDArray[np.uint64], bits: int, wanted_bits: int, key: np.uint64
) -> NDArray[np.uint64]:
    """Return `wanted_bits` well-mixed bits for each value, of `bits` bits."""
    if half.size < _TABLE_FROM << bits:
        return _mix(half, key) & _mask(wanted_bits)
    table = _mix(np.arange(1 << bits, dtype=np.uint64), key) & _mask(wanted_bits)
    return table.take(half.view(np.int64))


def _mix(values: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """Return 64 well-mixed bits for each value (splitmix64's finaliser; wraps on purpose)."""
    mixed = values + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MULTIPLIER_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MULTIPLIER_2
    return mixed ^ (mixed >> np.uint64(31))
