"""Lion (Chen et al., arXiv 2302.06675, algorithm 2).

It keeps one average instead of AdamW's two moments: 4 bytes a parameter less in memory and in
every checkpoint. That is 5.5 GB of 16.4 GB for masters and state of the 1.4B model.
"""

from typing import Any

import torch

from mobilellama.pretrain.optimizers.kind import OptimizerKind


class Lion(OptimizerKind):
    """Steps by the sign of an average of the gradients."""

    state_names = ("exp_avg",)
    unused = ("eps",)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build the optimizer."""
        return LionSteps(groups, beta1=self.config.beta1, beta2=self.config.beta2)

    def describe(self) -> str:
        """Return name and constants as one line."""
        config = self.config
        return (
            f"Lion, betas {config.beta1:g} and {config.beta2:g}, "
            f"weight decay {config.weight_decay:g}"
        )


class LionSteps(torch.optim.Optimizer):
    """Lion as torch's optimizers are. torch 2.13 has none, and DeepSpeed's needs a compiler."""

    def __init__(self, groups: list[dict[str, Any]], *, beta1: float, beta2: float) -> None:
        super().__init__(groups, {"beta1": beta1, "beta2": beta2})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Apply one step to every parameter that has a gradient. It takes no closure."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if (gradient := parameter.grad) is not None:
                    state = self.state[parameter]
                    if not state:
                        state["exp_avg"] = torch.zeros_like(parameter)
                    _lion_step(parameter, gradient, state["exp_avg"], group)


def _lion_step(
    parameter: torch.Tensor, gradient: torch.Tensor, average: torch.Tensor, group: dict[str, Any]
) -> None:
    # The update mixes in the gradient by beta1, what is remembered mixes it in by beta2.
    update = average.lerp(gradient, 1 - group["beta1"]).sign_()
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.add_(update, alpha=-group["lr"])
    average.lerp_(gradient, 1 - group["beta2"])
