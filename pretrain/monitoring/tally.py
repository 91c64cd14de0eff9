"""Adding up a step's losses by group (subset), over micro-batches and ranks."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Losses:
    """Loss sums and supervised tokens of each group in one step, over all ranks."""

    loss_sums: list[float]
    tokens: list[float]

    @property
    def mean(self) -> float:
        """Loss per supervised token, in nats."""
        return sum(self.loss_sums) / max(sum(self.tokens), 1.0)


class Tally:
    """Adds up a step's losses by group on the device, without a sync."""

    def __init__(self, groups: int, device: torch.device) -> None:
        # float64: float32 counts exactly only up to 16.8 million, and a step may have more tokens.
        self._sums = torch.zeros(2, groups, dtype=torch.float64, device=device)

    def add(self, groups: torch.Tensor, loss_sums: torch.Tensor, tokens: torch.Tensor) -> None:
        """Add a micro-batch: each (B,)."""
        self._sums[0].index_add_(0, groups, loss_sums.double())
        self._sums[1].index_add_(0, groups, tokens.double())

    def with_flag(self, flag: bool) -> torch.Tensor:
        """Return what is reduced: loss sums, tokens, and the flag last."""
        return torch.cat([self._sums.flatten(), self._sums.new_tensor([float(flag)])])

    def losses(self, totals: list[float]) -> Losses:
        """Return the reduced numbers by name."""
        groups = self._sums.shape[1]
        return Losses(totals[:groups], totals[groups : 2 * groups])
