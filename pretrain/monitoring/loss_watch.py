"""Watching the loss: spikes are reported with their positions, lasting failure ends the run."""

import logging
import math
from collections import deque
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from mobilellama.config import UserError, require_at_least

log = logging.getLogger(__name__)


class LossPolicyError(UserError):
    """The run skipped too many steps in a row; a retry would do the same."""


@dataclass(frozen=True, kw_only=True)
class LossWatchConfig:
    """When a loss is worth a message, and when the run ends."""

    window_steps: int = 128
    """A loss is compared with the mean and deviation of so many last steps."""
    spike_sigma: float = 6.0
    """A loss is a spike if it is so many standard deviations above the mean."""
    max_skipped_in_a_row: int = 10
    """The run fails after so many skipped steps in a row (their gradients are not finite)."""

    def __post_init__(self) -> None:
        require_at_least("loss_watch.window_steps", self.window_steps, 2)
        require_at_least("loss_watch.spike_sigma", self.spike_sigma, 0)
        require_at_least("loss_watch.max_skipped_in_a_row", self.max_skipped_in_a_row, 1)


class WatchState(TypedDict):
    """The history as a checkpoint's counters hold it."""

    skipped_steps: int
    skipped_in_a_row: int
    spikes: int
    losses: list[float]


class LossWatch:
    """The history that spikes are seen against; part of every checkpoint."""

    def __init__(
        self, config: LossWatchConfig, state: WatchState | None = None, *, is_main: bool = True
    ) -> None:
        """Start, or go on from a checkpoint's `state`; only the rank that `is_main` warns."""
        self._config, self._level = config, logging.WARNING if is_main else logging.DEBUG
        state = state or {"skipped_steps": 0, "skipped_in_a_row": 0, "spikes": 0, "losses": []}
        self.skipped_steps, self.spikes = state["skipped_steps"], state["spikes"]
        self._in_a_row = state["skipped_in_a_row"]
        self._losses = deque(state["losses"], maxlen=config.window_steps)

    def state(self) -> WatchState:
        """Return what the constructor takes back."""
        return {
            "skipped_steps": self.skipped_steps,
            "skipped_in_a_row": self._in_a_row,
            "spikes": self.spikes,
            "losses": list(self._losses),
        }

    def record(self, loss: float, *, applied: bool, step: int, positions: range) -> None:
        """Take note of a step.

        Raises:
            LossPolicyError: too many skipped steps in a row.
        """
        if not applied or not math.isfinite(loss):
            self.skipped_steps += not applied
            self._in_a_row += 1
            log.log(
                self._level, "step %d: loss %s, %s (%d in a row); positions %d to %d",
                step, loss, "applied" if applied else "skipped: its gradient is not finite",
                self._in_a_row, positions.start, positions.stop - 1,
            )  # fmt: skip
            if self._in_a_row >= self._config.max_skipped_in_a_row:
                raise LossPolicyError(
                    f"{self._in_a_row} steps in a row had no finite gradient, the last at step "
                    f"{step}. Look at its data with 'mobilellama pretrain replay', then lower "
                    "optimizer.learning_rate or raise loss_watch.max_skipped_in_a_row"
                )
            return
        self._in_a_row = 0
        if len(self._losses) == self._config.window_steps:
            mean, deviation = float(np.mean(self._losses)), float(np.std(self._losses))
            if loss > mean + self._config.spike_sigma * deviation:
                self.spikes += 1
                log.log(
                    self._level,
                    "step %d: loss spike, %.4f against %.4f +- %.4f; positions %d to %d",
                    step, loss, mean, deviation, positions.start, positions.stop - 1,
                )  # fmt: skip
        self._losses.append(loss)
