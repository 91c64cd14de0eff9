"""From a position in the run to this rank's micro-batches: a pure function."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilellama.shards.mixture import PERIOD, Located, Mixture
from mobilellama.shards.windows import View

Sample = tuple[View, int] | None
"""A view and a number in it; None is a place after the run's end."""

_LOCATED_AT_ONCE = 8_192
"""Samples of a rank that are located together: one by one, numpy's cost a call is most of it."""
_PERIODS_AT_ONCE = 16
"""Of the mixture that a block of such samples may span: 2 ms each, before its first step."""


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one forward pass of one rank gets."""

    inputs: dict[str, Tensor]
    """The model's arguments, by name."""
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
        """Return the model's arguments for one forward pass, by name."""
        ...

    def supervised_tokens(self, samples: Iterable[Sample], count: int) -> int:
        """Return how many of the samples' tokens are supervised.

        Args:
            samples: they are located only if they are looked at.
            count: how many they are, those after the run's end left out.
        """
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
        # A step takes the same samples at any world size; only which rank reads them changes.
        share = global_batch_size // world_size
        self._all, self._mine = range(global_batch_size), range(rank * share, (rank + 1) * share)
        # Of the rank's places and of the whole step's, two blocks each: the threads that read ahead
        # are on both sides of a block's end.
        self._located = lru_cache(maxsize=4)(self._locate_steps)

    def at(self, position: int) -> StepBatch:
        """Return this rank's part of the step that begins at a position."""
        samples = list(self._samples(position, self._mine))
        # First ask for all, so that a cold disk or network folder gets the whole batch at once;
        # in training this runs in a thread that is ahead of the loop.
        read_ahead(samples)
        groups = torch.tensor(self._locate(position, self._mine)[0])
        count, size = self.num_samples(position), self._micro_batch_size
        return StepBatch(
            micro_batches=[
                MicroBatch(
                    inputs=self._inputs.stack(samples[k : k + size]),
                    groups=groups[k : k + size],
                )
                for k in range(0, len(groups), size)
            ],
            supervised_tokens=self._inputs.supervised_tokens(
                self._samples(position, self._all), count
            ),
            first_position=position,
            num_samples=count,
            tokens=count * self._seq_len,
        )

    def _samples(self, position: int, places: range) -> Iterator[Sample]:
        """Give the samples at some places of the step that begins at a position."""
        count = self.num_samples(position)
        for place, i, j in zip(places, *self._locate(position, places), strict=True):
            yield (self._views[i], j) if place < count else None

    def _locate(self, position: int, places: range) -> tuple[list[int], list[int]]:
        """Return the subset and the number of each of the samples at some places of a step."""
        step, offset = divmod(position, self._global_batch_size)
        # Blocks begin at multiples of at_once, so that the steps of a block share one entry of the
        # cache. A block spans few periods: each that a rank of many looks into is dealt out whole.
        spanned = _PERIODS_AT_ONCE * PERIOD // self._global_batch_size
        at_once = min(spanned, _LOCATED_AT_ONCE // len(places)) or 1
        first = offset + (step - step % at_once) * self._global_batch_size
        located = self._located(first, at_once, places)
        return located.subset[step % at_once].tolist(), located.sample[step % at_once].tolist()

    def _locate_steps(self, first: int, steps: int, places: range) -> Located:
        """Return where some places of consecutive steps lead, arrays of (steps, places)."""
        starts = first + self._global_batch_size * np.arange(steps)
        return self._mixture.locate(starts[:, None] + np.array(places))

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

    def __init__(self, *, seq_len: int, eos_id: int | None) -> None:
        """Prepare.

        Args:
            seq_len: tokens that a window predicts.
            eos_id: what documents end with, to tell the model where they begin; None: do not.
        """
        self._seq_len, self._eos_id = seq_len, eos_id

    def stack(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Return input_ids and labels, each (samples, seq_len) int64, and the documents' bounds."""
        places = [sample for sample in samples if sample is not None]
        assert len(places) == len(samples)  # pretraining ends with a whole step
        ids = np.concatenate([view.tokens(i) for view, i in places]).reshape(len(places), -1)
        # int64, which cross-entropy wants of labels; the shards hold uint16 or uint32.
        stacked: dict[str, NDArray[np.integer]] = {
            "input_ids": ids[:, :-1].astype(np.int64),
            "labels": ids[:, 1:].astype(np.int64),
        }
        if self._eos_id is not None:
            # EOS stands at the ends of documents and nowhere else. To compare the ids, which are
            # at hand, takes a tenth of the time of a bisection in the .idx, whose pages would
            # have to be read besides (benchmarks/loader_throughput.py). Positions are left to the
            # model's device: to write 16 KiB a sample here would take more than to find the bounds.
            stacked["document_bounds"] = document_bounds(ids == self._eos_id)
        return {name: torch.from_numpy(value) for name, value in stacked.items()}

    def supervised_tokens(self, samples: Iterable[Sample], count: int) -> int:
        """Return the number of tokens that the samples predict."""
        return count * self._seq_len


def document_bounds(ends: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return where documents begin in samples' inputs that are laid end to end, then the end.

    Args:
        ends: (samples, seq_len + 1), where documents end; it is overwritten. The last token of a
            sample is a label alone. The last document of a sample's inputs ends with them.

    Returns:
        (documents + 1,), what the kernels of variable length call cu_seqlens.

    Example: 0 1 0 0 0, 1 0 0 0 1 -> 0, 2, 4, 5, 8.
    """
    ends[:, -2] = True
    last = np.flatnonzero(ends[:, :-1])
    bounds = np.zeros(len(last) + 1, np.int32)
    np.add(last, 1, out=bounds[1:], casting="same_kind")
    return bounds


def read_ahead(samples: Iterable[Sample]) -> None:
    """Ask the kernel to read the samples' pages ahead."""
    for sample in samples:
        if sample is not None:
            sample[0].read_ahead(sample[1])


def positions_in_documents(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Return each token's position in its document, for documents that are laid end to end.

    Example: lengths 2, 3, 1 -> 0, 1, 0, 1, 2, 0.
    """
    counting = np.arange(max(lengths))
    return np.concatenate([counting[:length] for length in lengths])
