"""What an optimizer trains: parameter groups. The optimizers are in optimizers/."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from mobilellama.pretrain.optimizers.config import OptimizerConfig


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a peak learning rate and a decay."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    learning_rate: float
    """Peak; the schedule gives a factor of it."""
    weight_decay: float


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that want a gradient, with their names."""
    return ((name, value) for name, value in model.named_parameters() if value.requires_grad)


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


def torch_groups(groups: Iterable[ParameterGroup]) -> list[dict[str, Any]]:
    """Return parameter groups as torch's optimizers take them."""
    return [
        {
            "params": list(group.parameters),
            "lr": group.learning_rate,
            "weight_decay": group.weight_decay,
        }
        for group in groups
    ]
