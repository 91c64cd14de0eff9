"""From a position in the run to this rank's micro-batches: a pure function."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mobilellama.config import require_at_least
from mobilellama.shards.mixture import Mixture
from mobilellama.shards.order import DEFAULT_SEED
from mobilellama.shards.windows import Windows


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which samples, in which order."""

    path: str
    """Dataset folder: the --output of 'mobilellama tokenize run'."""
    mixture: str | None = None
    """Mixture preset (redpajama), or YAML file of 'subset: weight' lines, or of 'epochs:' and
    'subset: epochs' lines below it; None is the corpus as it is."""
    seed: int = DEFAULT_SEED
    """Order of the samples; not the dataset's own seed."""
    verify: bool = False
    """Check every bucket's sha256 before training."""
    workers: int = 1
    """Threads that read batches ahead; 0 reads each when it is needed. Changes no sample."""

    def __post_init__(self) -> None:
        require_at_least("data.workers", self.workers, 0)


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
    """The step takes positions [first_position, first_position + samples)."""
    samples: int
    """Of the whole global batch."""


class Batches(Protocol):
    """What the loop asks of a stage's data; ``at`` is a pure function of the position."""

    group_names: tuple[str, ...]
    """What ``MicroBatch.groups`` count."""

    def at(self, position: int) -> StepBatch:
        """Return this rank's part of the step that begins at a position."""
        ...


class PretrainBatches:
    """Windows of tokens in the mixture's order; rank r takes the r-th slice of each batch."""

    def __init__(
        self,
        mixture: Mixture,
        windows: dict[str, Windows],
        *,
        global_batch_size: int,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        per_document: bool,
    ) -> None:
        """Prepare to read.

        Args:
            mixture: the order.
            windows: the samples of each of the mixture's subsets.
            global_batch_size: samples per optimizer step over all ranks.
            micro_batch_size: samples per rank per forward.
            rank: this process.
            world_size: all processes.
            per_document: give position_ids that restart at each document.
        """
        assert global_batch_size % (micro_batch_size * world_size) == 0
        self.group_names = mixture.subsets
        self._mixture, self._windows = mixture, [windows[name] for name in mixture.subsets]
        self._samples, self._micro_batch_size = global_batch_size, micro_batch_size
        share = global_batch_size // world_size
        self._mine = np.arange(rank * share, (rank + 1) * share)
        self._per_document = per_document
        self._supervised_tokens = global_batch_size * self._windows[0].seq_len

    def at(self, position: int) -> StepBatch:
        """Return this rank's part of the step that begins at a position."""
        located = self._mixture.locate(position + self._mine)
        order = zip(located.subset.tolist(), located.sample.tolist(), strict=True)
        inputs = stack_inputs(
            [(self._windows[i], j) for i, j in order], per_document=self._per_document
        )
        groups = torch.from_numpy(located.subset)
        size = self._micro_batch_size
        return StepBatch(
            micro_batches=[
                MicroBatch(
                    inputs={name: value[k : k + size] for name, value in inputs.items()},
                    groups=groups[k : k + size],
                )
                for k in range(0, len(groups), size)
            ],
            supervised_tokens=self._supervised_tokens,
            first_position=position,
            samples=self._samples,
        )


def stack_inputs(
    samples: Sequence[tuple[Windows, int]], *, per_document: bool
) -> dict[str, Tensor]:
    """Read samples and return the model's arguments, each (samples, seq_len) int64.

    Args:
        samples: (the windows, the sample's number) of each.
        per_document: give position_ids that restart at each document.
    """
    # First ask for all, so that a cold disk or network folder gets the whole batch at once; in
    # training this runs in a thread that is ahead of the loop.
    for view, i in samples:
        view.will_need(i)
    ids = torch.from_numpy(np.stack([view.tokens(i) for view, i in samples]).astype(np.int64))
    inputs = {"input_ids": ids[:, :-1].contiguous(), "labels": ids[:, 1:].contiguous()}
    if per_document:
        positions = [positions_in_documents(v.seq_len, v.boundaries(i)) for v, i in samples]
        inputs["position_ids"] = torch.from_numpy(np.stack(positions))
    return inputs


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
