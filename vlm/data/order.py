"""The order of image-text samples: which of them a step takes, a pure function of the position.

An epoch is every sample once. With ``modality_length`` (after LLaVA's
``group_by_modality_length``):

1. The samples with images and those without are permuted apart, keyed by (seed, modality, epoch).
2. Windows of 16 global batches are sorted by length and cut into the batches. What is left of both
   lists makes the epoch's last steps.
3. The whole batches are permuted. A step so holds one modality, but for the last ones, and similar
   lengths: little padding, and equal work for all ranks. (LLaVA sorts within one global batch. With
   one micro-batch a rank, as in the published recipes, the rank with the longest samples then
   decides the time of every step. transformers' ``group_by_length`` has windows of 50 batches.)
4. Within a step samples go from the longest to the shortest.

With ``none`` one permutation deals the samples out as they come. Either way the epoch's last step
may be short, and an epoch's steps never reach into the next. Nothing depends on the number of
ranks. Memory: an integer a sample.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from threading import Lock
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mobilellama.shards.permute import Permutation

Grouping = Literal["modality_length", "none"]
WINDOW_STEPS = 16
"""Steps whose samples are sorted by length together."""


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
        self._epochs: dict[int, NDArray[np.int64]] = {}
        self._lock = Lock()  # reader threads ask at once

    def num_samples(self, position: int) -> int:
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
        chosen = self.epoch(epoch)[within : within + self.num_samples(position)]
        if self._grouping == "none":
            return chosen
        return self._by_length(chosen)

    def _by_length(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return samples from the longest to the shortest, equals as they come."""
        return chosen[np.argsort(-self._lengths[chosen], kind="stable")]

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return every sample once, in the order of an epoch; the last two are kept."""
        with self._lock:
            if epoch not in self._epochs:
                self._epochs = {k: v for k, v in self._epochs.items() if k == epoch - 1}
                self._epochs[epoch] = self._epoch(epoch)
            return self._epochs[epoch]

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        if self._grouping == "none":
            return self._permuted(np.arange(len(self._lengths)), "all", epoch)
        batches: list[NDArray[np.int64]] = []
        rest: list[NDArray[np.int64]] = []
        for name, mine in (("image", self._has_images), ("text", ~self._has_images)):
            order = self._permuted(np.flatnonzero(mine), name, epoch)
            whole = len(order) // self._batch * self._batch
            window = WINDOW_STEPS * self._batch
            for start in range(0, whole, window):
                near = self._by_length(order[start : min(start + window, whole)])
                batches += np.split(near, len(near) // self._batch)
            rest.append(order[whole:])
        deal = self._permuted(np.arange(len(batches)), "batches", epoch)
        return np.concatenate([*(batches[i] for i in deal), *rest])

    def _permuted(self, values: NDArray[np.int64], name: str, epoch: int) -> NDArray[np.int64]:
        if len(values) < 2:
            return values
        return values[Permutation(len(values), self._seed, name, epoch)(np.arange(len(values)))]


def deal_rows(rows: Sequence[Sequence[int]], size: int, ranks: int) -> list[list[list[int]]]:
    """Return micro-batches of rows, rank by rank in turn: micro-batch i is rank (i % ranks)'s.

    There are as many for each rank, of neighbouring rows, as evenly filled as may be: few long
    rows are not one rank's. Where there are fewer rows than micro-batches, some have one empty row.

    Args:
        rows: of a step, over all ranks.
        size: rows of a micro-batch at most.
        ranks: that share them.
    """
    count = max(1, ceil(len(rows) / (size * ranks))) * ranks
    edges = [i * len(rows) // count for i in range(count + 1)]
    return [[list(row) for row in rows[a:b]] or [[]] for a, b in pairwise(edges)]
