"""Validation loss on each subset's held-out documents."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mobilellama.config import require_at_least
from mobilellama.distributed import World
from mobilellama.pretrain.data import Inputs
from mobilellama.pretrain.engine import Engine
from mobilellama.shards.reader import TokenDataset

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """When, and on how much."""

    every_steps: int | None = 1000
    """Steps from one validation to the next; None never validates. The last step always does."""
    at_start: bool = False
    """Validate before the first step too."""
    samples_per_subset: int = 64
    """So many held-out samples of each subset, evenly spread; fewer where there are fewer."""

    def __post_init__(self) -> None:
        if self.every_steps is not None:
            require_at_least("validation.every_steps", self.every_steps, 1)
        require_at_least("validation.samples_per_subset", self.samples_per_subset, 1)


class Validation:
    """The same samples every time; the ranks share them out."""

    def __init__(
        self,
        config: ValidationConfig,
        *,
        dataset: TokenDataset,
        subsets: tuple[str, ...],
        seq_len: int,
        micro_batch_size: int,
        inputs: Inputs,
        max_steps: int,
        engine: Engine,
        world: World,
    ) -> None:
        self._config, self._engine, self._world = config, engine, world
        self._micro_batch_size = micro_batch_size
        self._inputs, self._max_steps = inputs, max_steps
        views = {subset: dataset.view(subset, seq_len, "heldout") for subset in subsets}
        self._views = {subset: view for subset, view in views.items() if len(view)}
        missing = sorted(set(subsets) - set(self._views))
        if missing and world.is_main:
            log.warning(
                "no validation on %s: what is held out has no sample of %d tokens",
                ", ".join(missing), seq_len,
            )  # fmt: skip

    def __call__(self, step: int) -> Mapping[str, float]:
        """Return the loss of each subset and of all, in nats a token; empty if none is due."""
        if not self._views or not self._is_due(step):
            return {}
        self._engine.train(False)
        with torch.no_grad():
            sums = [number for subset in self._views for number in self._subset(subset)]
        self._engine.train(True)
        totals = self._world.sum(sums)
        losses = {
            f"validation_loss/{subset}": totals[2 * i] / totals[2 * i + 1]
            for i, subset in enumerate(self._views)
        }
        return {"validation_loss": sum(totals[::2]) / sum(totals[1::2]), **losses}

    def _is_due(self, step: int) -> bool:
        every = self._config.every_steps
        if every is None:
            return False
        if step == 0:
            return self._config.at_start
        return step % every == 0 or step == self._max_steps

    def _subset(self, subset: str) -> tuple[float, float]:
        """Return (loss sum, tokens) of this rank's share of a subset."""
        view = self._views[subset]
        count = min(len(view), self._config.samples_per_subset)
        mine = range(self._world.rank, count, self._world.size)
        loss = tokens = 0.0
        for k in range(0, len(mine), self._micro_batch_size):
            part = mine[k : k + self._micro_batch_size]
            inputs = self._inputs.stack([(view, i * len(view) // count) for i in part])
            moved = {name: value.to(self._world.device) for name, value in inputs.items()}
            sums = self._engine.forward(moved, last=False)
            loss += float(sums.loss_sum)
            tokens += float(sums.sample_tokens.sum())
        return loss, tokens
