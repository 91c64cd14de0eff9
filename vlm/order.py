"""The order of image-text samples: which of them a step takes, a pure function of the position.

An epoch is every sample once. With ``modality_length`` (LLaVA's ``group_by_modality_length``, on
whose idea this is built):

1. The samples with images and those without are permuted apart, keyed by (seed, modality, epoch),
   and each list is cut into global batches. What is left of both makes the epoch's last steps.
2. The whole batches are permuted. A step so holds one modality, but for the last ones.
3. Within a step samples go from the longest to the shortest, so that a micro-batch holds similar
   lengths and the ranks, which take turns, have equal work. Which samples a step has does not
   depend on their lengths, so that a batch is as random as without it.

With ``none`` one permutation deals the samples out as they come. Either way the epoch's last step
may be short, and an epoch's steps never reach into the next. Nothing depends on the number of
ranks. Memory: an integer a sample.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mobilellama.shards.permute import Permutation

Grouping = Literal["modality_length", "none"]


class SampleOrder:
    """Position -> the samples of the step that begins there."""

    def __init__(
        self,
        lengths: NDArray[np.integer],
        has_images: NDArray[np.bool_],
        *,
        global_batch_size: int,
        seed: int,
        grouping: Grouping,
        end: int | None = None,
    ) -> None:
        """Prepare.

        Args:
            lengths: tokens of each sample, (N,).
            has_images: whether a sample has an image, (N,).
            global_batch_size: samples of a step.
            seed: ``data.seed``.
            grouping: how samples come together.
            end: samples of the whole run; None: it goes on for ever.
        """
        assert len(lengths) == len(has_images) > 0
        self._lengths, self._has_images = lengths, has_images
        self._batch, self._seed, self._grouping, self._end = global_batch_size, seed, grouping, end
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def samples(self, position: int) -> int:
        """Return how many samples the step that begins at a position takes."""
        within = position % len(self._lengths)
        count = min(self._batch, len(self._lengths) - within)
        return count if self._end is None else max(min(count, self._end - position), 0)

    def steps_left(self, position: int) -> int:
        """Return the steps from a position to the run's end."""
        assert self._end is not None
        total, steps = len(self._lengths), 0
        while position < self._end:
            epoch_ends = (position // total + 1) * total
            until = min(epoch_ends, self._end)
            steps += ceil((until - position) / self._batch)
            position = until
        return steps

    def step(self, position: int) -> NDArray[np.int64]:
        """Return the samples of the step that begins at a position."""
        epoch, within = divmod(position, len(self._lengths))
        chosen = self.epoch(epoch)[within : within + self.samples(position)]
        if self._grouping == "none":
            return chosen
        return chosen[np.argsort(-self._lengths[chosen], kind="stable")]

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return every sample once, in the order of an epoch."""
        if self._grouping == "none":
            return self._permuted(np.arange(len(self._lengths)), "all", epoch)
        batches: list[NDArray[np.int64]] = []
        rest: list[NDArray[np.int64]] = []
        for name, mine in (("image", self._has_images), ("text", ~self._has_images)):
            order = self._permuted(np.flatnonzero(mine), name, epoch)
            whole = len(order) // self._batch * self._batch
            batches += np.split(order[:whole], whole // self._batch) if whole else []
            rest.append(order[whole:])
        deal = self._permuted(np.arange(len(batches)), "batches", epoch)
        return np.concatenate([*(batches[i] for i in deal), *rest])

    def _permuted(self, values: NDArray[np.int64], name: str, epoch: int) -> NDArray[np.int64]:
        if len(values) < 2:
            return values
        return values[Permutation(len(values), self._seed, name, epoch)(np.arange(len(values)))]


def deal_rows(rows: Sequence[Sequence[int]], size: int, ranks: int) -> list[list[list[int]]]:
    """Return micro-batches of rows, rank by rank in turn: micro-batch i is rank (i % ranks)'s.

    There are as many for each rank; missing ones, and missing rows of one, are left empty.
    """
    count = max(1, ceil(len(rows) / (size * ranks))) * ranks
    parts = [[list(row) for row in rows[i * size : (i + 1) * size]] for i in range(count)]
    return [part + [[]] * (size - len(part)) for part in parts]
