"""Validation loss on what is held out."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from mobilellama.distributed import World
from mobilellama.pretrain.data import Inputs, read_ahead
from mobilellama.pretrain.engines.engine import Engine
from mobilellama.pretrain.linear_cross_entropy import IGNORED
from mobilellama.pretrain.prefetch import read_in_order
from mobilellama.pretrain.sections import ValidationConfig
from mobilellama.shards.reader import TokenDataset

log = logging.getLogger(__name__)

TURNS_A_QUESTION = 8
"""Micro-batches from one question whether to go on to the next. Each makes the CPU wait."""


class HeldOut(Protocol):
    """Samples that are not trained on, by the name that their loss is written under."""

    counts: Mapping[str, int]
    """Samples of each; those without one are not among them."""

    def stack(self, name: str, samples: Sequence[int]) -> dict[str, Tensor]:
        """Return the model's arguments for some of them, by number."""
        ...


class HeldOutViews:
    """The held-out samples of a dataset's subsets."""

    def __init__(
        self,
        dataset: TokenDataset,
        subsets: Sequence[str],
        seq_len: int,
        inputs: Inputs,
        *,
        is_main: bool,
    ) -> None:
        views = {subset: dataset.view(subset, seq_len, "heldout") for subset in subsets}
        self._views = {subset: view for subset, view in views.items() if len(view)}
        self._inputs = inputs
        self.counts: Mapping[str, int] = {subset: len(view) for subset, view in self._views.items()}
        missing = sorted(set(subsets) - set(self._views))
        if missing and is_main:
            log.warning(
                "no validation on %s: the held-out part has no sample of %d tokens",
                ", ".join(missing), seq_len,
            )  # fmt: skip

    def stack(self, name: str, samples: Sequence[int]) -> dict[str, Tensor]:
        """Return the model's arguments for some of a subset's samples."""
        chosen = [(self._views[name], i) for i in samples]
        read_ahead(chosen)
        return self._inputs.stack(chosen)


class Validation:
    """The same samples every time; the ranks share them out."""

    def __init__(
        self,
        config: ValidationConfig,
        heldout: HeldOut | None,
        *,
        micro_batch_size: int,
        max_steps: int,
        engine: Engine,
        world: World,
    ) -> None:
        self._config, self._engine, self._world = config, engine, world
        self._heldout, self._micro_batch_size = heldout, micro_batch_size
        self._names = tuple(heldout.counts) if heldout else ()
        self._max_steps = max_steps

    def __call__(self, step: int, go_on: Callable[[], bool] = lambda: True) -> Mapping[str, float]:
        """Return the loss of each name and of all, in nats a token; empty if none is due.

        Args:
            step: steps done.
            go_on: asked before every eighth micro-batch, on all ranks together; once it says no,
                the rest is left out and nothing is returned.
        """
        if not self._names or not self.is_due(step):
            return {}
        self._engine.train(False)
        sums: list[Tensor] = []
        with torch.no_grad():
            for name in self._names:
                if (losses := self._loss(name, go_on)) is None:
                    break
                sums.append(losses)
        self._engine.train(True)
        if len(sums) < len(self._names):
            if self._world.is_main:
                log.info("step %d  validation is skipped", step)
            return {}
        totals = self._world.sum(torch.cat(sums))
        losses = {
            f"validation_loss/{name}": totals[2 * i] / totals[2 * i + 1]
            for i, name in enumerate(self._names)
        }
        return {"validation_loss": sum(totals[::2]) / sum(totals[1::2]), **losses}

    def is_due(self, step: int) -> bool:
        """Return whether the step is followed by a validation."""
        every = self._config.every_steps
        if every is None:
            return False
        if step == 0:
            return self._config.at_start
        return step % every == 0 or step == self._max_steps

    def _loss(self, name: str, go_on: Callable[[], bool]) -> Tensor | None:
        """Return (loss sum, tokens) of this rank's share of a name's samples; None if stopped.

        They stay on the device, in fp64, so that the CPU is ahead of it from batch to batch.
        """
        assert self._heldout is not None
        total, size = self._heldout.counts[name], self._micro_batch_size
        count = min(total, self._config.samples_per_subset)
        mine = [i * total // count for i in range(self._world.rank, count, self._world.size)]
        parts = [mine[k : k + size] for k in range(0, len(mine), size)]
        sums = torch.zeros(2, dtype=torch.float64, device=self._world.device)
        # As many turns on every rank: they agree together whether to go on.
        most = -(-count // self._world.size)
        batches = read_in_order(partial(self._batch, name), parts, device=self._world.device)
        with closing(batches):
            for turn in range(-(-most // size)):
                if turn % TURNS_A_QUESTION == 0 and not go_on():  # collective, host-device sync
                    return None
                if turn < len(parts):
                    found = self._engine.forward(next(batches), last=False)
                    sums[0] += found.loss_sum
                    sums[1] += found.sample_tokens.sum()
        return sums

    def _batch(self, name: str, samples: Sequence[int]) -> dict[str, Tensor]:
        """Return a micro-batch of the size of all others; what fills it up is not supervised.

        A compiled layer that has seen two sizes is compiled for any size from then on, in training
        too, where such kernels are slower.
        """
        assert self._heldout is not None
        missing = self._micro_batch_size - len(samples)
        inputs = self._heldout.stack(name, [*samples, *[samples[0]] * missing])
        if missing:
            inputs["labels"][len(samples) :] = IGNORED
        return inputs
