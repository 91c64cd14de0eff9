"""From a position in the run to this rank's micro-batches: a pure function."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mobilellama.shards.mixture import Mixture
from mobilellama.shards.windows import View

Sample = tuple[View, int] | None
"""A view and a number in it; None is a place after the run's end."""


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one forward pass of one rank gets."""

    inputs: dict[str, Tensor]
    """The model's arguments, each (B, ...)."""
    groups: Tensor
    """(B,) int64: the subset of each sample, for the loss per subset."""


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """One rank's part of one optimizer step."""

    micro_batches: list[MicroBatch]
    supervised_tokens: int
    """Of the whole global batch, over all ranks."""
    first_position: int
    """The step takes positions [first_position, first_position + num_samples)."""
    num_samples: int
    """Of the whole global batch."""
    tokens: int
    """That the whole global batch's forward passes go over, the samples' own padding included."""


class Batches(Protocol):
    """What the loop asks of a stage's data; ``at`` is a pure function of the position."""

    group_names: tuple[str, ...]
    """What ``MicroBatch.groups`` count."""

    def at(self, position: int) -> StepBatch:
        """Return this rank's part of the step that begins at a position."""
        ...

    def num_samples(self, position: int) -> int:
        """Return how many samples the step that begins at a position takes."""
        ...

    def steps_left(self, position: int) -> int:
        """Return the steps from a position to the run's end, where the data say it."""
        ...


class Inputs(Protocol):
    """How a stage makes the model's arguments of samples."""

    def stack(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Return the model's arguments, each (samples, ...)."""
        ...

    def supervised_tokens(self, samples: Sequence[Sample]) -> int:
        """Return how many of the samples' tokens are supervised."""
        ...


class MixedBatches:
    """Samples in the mixture's order; rank r takes the r-th slice of each batch."""

    def __init__(
        self,
        mixture: Mixture,
        views: Mapping[str, View],
        inputs: Inputs,
        *,
        global_batch_size: int,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        end: int | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            mixture: the order.
            views: the samples of each of the mixture's subsets.
            inputs: makes the model's arguments of samples.
            global_batch_size: samples per optimizer step over all ranks.
            micro_batch_size: samples per rank per forward.
            rank: this process.
            world_size: all processes.
            end: the run's number of samples: its last step may be short, and its missing places
                are given to `inputs` as None; None: the run ends with a whole step.
        """
        assert global_batch_size % (micro_batch_size * world_size) == 0
        self.group_names = mixture.subsets
        self._mixture, self._views = mixture, [views[name] for name in mixture.subsets]
        self._inputs, self._end = inputs, end
        self._global_batch_size, self._micro_batch_size = global_batch_size, micro_batch_size
        self._seq_len = self._views[0].seq_len
        share = global_batch_size // world_size
        self._mine = slice(rank * share, (rank + 1) * share)

    def at(self, position: int) -> StepBatch:
        """Return this rank's part of the step that begins at a position."""
        located = self._mixture.locate(position + np.arange(self._global_batch_size))
        order = zip(located.subset.tolist(), located.sample.tolist(), strict=True)
        samples: list[Sample] = [(self._views[i], j) for i, j in order]
        count = self.num_samples(position)
        samples[count:] = [None] * (self._global_batch_size - count)
        inputs = self._inputs.stack(samples[self._mine])
        groups = torch.from_numpy(located.subset[self._mine])
        size = self._micro_batch_size
        return StepBatch(
            micro_batches=[
                MicroBatch(
                    inputs={name: value[k : k + size] for name, value in inputs.items()},
                    groups=groups[k : k + size],
                )
                for k in range(0, len(groups), size)
            ],
            supervised_tokens=self._inputs.supervised_tokens(samples),
            first_position=position,
            num_samples=count,
            tokens=count * self._seq_len,
        )

    def num_samples(self, position: int) -> int:
        """Return how many samples the step that begins at a position takes."""
        if self._end is None:
            return self._global_batch_size
        return min(max(self._end - position, 0), self._global_batch_size)

    def steps_left(self, position: int) -> int:
        """Return the steps from a position to the run's end, the last of which may be short."""
        assert self._end is not None, "this run's length is given in steps"
        return math.ceil(max(self._end - position, 0) / self._global_batch_size)


class WindowInputs:
    """Pretraining's: every token of a window is supervised."""

    def __init__(self, *, per_document: bool) -> None:
        """Prepare.

        Args:
            per_document: give position_ids that restart at each document.
        """
        self._per_document = per_document

    def stack(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Return the model's arguments, each (samples, seq_len) int64."""
        # First ask for all, so that a cold disk or network folder gets the whole batch at once;
        # in training this runs in a thread that is ahead of the loop.
        places = [sample for sample in samples if sample is not None]
        assert len(places) == len(samples)  # pretraining ends with a whole step
        for view, i in places:
            view.read_ahead(i)
        ids = torch.from_numpy(np.stack([view.tokens(i) for view, i in places]).astype(np.int64))
        inputs = {"input_ids": ids[:, :-1].contiguous(), "labels": ids[:, 1:].contiguous()}
        if self._per_document:
            position_ids = [positions_in_documents(v.seq_len, v.boundaries(i)) for v, i in places]
            inputs["position_ids"] = torch.from_numpy(np.stack(position_ids))
        return inputs

    def supervised_tokens(self, samples: Sequence[Sample]) -> int:
        """Return the number of tokens that the samples predict."""
        return sum(sample[0].seq_len for sample in samples if sample is not None)


def positions_in_documents(seq_len: int, starts: np.ndarray) -> np.ndarray:
    """Return each token's position in its document, (seq_len,) int64.

    Args:
        seq_len: tokens of the sample.
        starts: offsets at which a new document starts, ascending; one past the end is left out.

    Example: seq_len 6, starts [2, 5] -> [0, 1, 0, 1, 2, 0].
    """
    begin = np.zeros(seq_len, dtype=np.int64)
    inside = starts[starts < seq_len]
    begin[inside] = inside
    return np.arange(seq_len) - np.maximum.accumulate(begin)
