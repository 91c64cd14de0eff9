"""AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""

from typing import Any

import torch
from torch import Tensor

from mobilellama.pretrain.optimizers.kind import OptimizerKind


class AdamW(OptimizerKind):
    """torch's fused AdamW, which compiles nothing, on CPU or GPU."""

    state_names = ("exp_avg", "exp_avg_sq")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build torch's optimizer."""
        betas = (self.config.beta1, self.config.beta2)
        return torch.optim.AdamW(groups, betas=betas, eps=self.config.eps, fused=True)

    def first_state(self, values: Tensor, steps: int) -> dict[str, Any]:
        """Return moments of zero, and the count of steps for their bias correction."""
        step = torch.tensor(float(steps), device=values.device)
        return {"step": step} | super().first_state(values, steps)

    def describe(self) -> str:
        """Return name and constants as one line."""
        config = self.config
        return (
            f"AdamW, betas {config.beta1:g} and {config.beta2:g}, eps {config.eps:g}, "
            f"weight decay {config.weight_decay:g}"
        )
