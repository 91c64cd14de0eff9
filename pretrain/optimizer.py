"""AdamW and its parameter groups."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from mobilellama.config import ConfigError, require_at_least, require_share


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) with the paper's values."""

    learning_rate: float = 3e-4
    """Peak learning rate."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled decay of the matrices; norms have none."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm."""

    def __post_init__(self) -> None:
        for name, example in (("learning_rate", 3e-4), ("eps", 1e-8), ("max_grad_norm", 1.0)):
            if not (value := getattr(self, name)) > 0:  # "not >" also catches NaN
                rule = "must be above 0"
                raise ConfigError(f"optimizer.{name}", value, rule, f"Give e.g. {example}")
        require_share("optimizer.beta1", self.beta1)
        require_share("optimizer.beta2", self.beta2)
        require_at_least("optimizer.weight_decay", self.weight_decay, 0)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a peak learning rate and a decay."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    learning_rate: float
    """Peak; the schedule gives a factor of it."""
    weight_decay: float


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> list[ParameterGroup]:
    """Split the parameters into matrices, which decay, and norms, which do not."""
    matrices: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    for _, parameter in named_parameters:
        (matrices if parameter.dim() >= 2 else norms).append(parameter)
    groups = [
        ParameterGroup("matrices", tuple(matrices), config.learning_rate, config.weight_decay),
        ParameterGroup("norms", tuple(norms), config.learning_rate, 0.0),
    ]
    return [group for group in groups if group.parameters]  # LoRA trains matrices alone


def build_adamw(groups: list[ParameterGroup], config: OptimizerConfig) -> torch.optim.AdamW:
    """Build torch's fused AdamW, which compiles nothing, on CPU or GPU."""
    return torch.optim.AdamW(
        [
            {
                "params": list(group.parameters),
                "lr": group.learning_rate,
                "weight_decay": group.weight_decay,
            }
            for group in groups
        ],
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )
