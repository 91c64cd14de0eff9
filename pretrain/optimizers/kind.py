"""The contract of an optimizer: how it is built, and which state it keeps of every parameter.

Engines and checkpoints know no optimizer. They ask for ``state_names``, keep those tensors by
name, and store each as ``PARAMETER:NAME``. An optimizer must obey four rules:

1. Each named tensor is fp32 and has the parameter's shape.
2. The update of an element depends on no other element of the parameter. ZeRO gives the optimizer
   flat partitions, which begin and end anywhere in a parameter.
3. Everything else that it remembers follows from the number of steps that it has applied.
4. It reads its learning rate from ``param_groups`` at each step: the schedule sets it there.

The tests in ``tests/pretrain/optimizers/test_table.py`` hold every entry of the table to them.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.optimizers.table import OPTIMIZERS


class OptimizerKind(ABC):
    """An optimizer that ``optimizer.kind`` names, with the config of a run."""

    state_names: ClassVar[tuple[str, ...]]
    """Keys of torch's state of a parameter that checkpoints store. "weight" is none of them."""
    unused: ClassVar[tuple[str, ...]] = ()
    """Fields of the config that this optimizer does not read."""

    def __init__(self, config: OptimizerConfig) -> None:
        self.config = config

    @abstractmethod
    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build torch's optimizer.

        Args:
            groups: as torch takes them: params, lr and weight_decay.
        """

    @abstractmethod
    def describe(self) -> str:
        """Return name and constants as one line, without learning rates, for cards."""

    def ignored(self) -> list[str]:
        """Return a sentence for each field that was changed and has no effect."""
        defaults = {field.name: field.default for field in fields(self.config)}
        return [
            f"optimizer.{name} = {value:g} has no effect: {self.config.kind} does not use it"
            for name in self.unused
            if (value := getattr(self.config, name)) != defaults[name]
        ]

    def first_state(self, values: Tensor, steps: int) -> dict[str, Any]:
        """Return torch's state of a parameter before its first step: here, zeros.

        A resume calls it too, and then fills the tensors of ``state_names``.

        Args:
            values: the parameter, or a partition of several.
            steps: that the optimizer has applied so far. Bias corrections depend on them.
        """
        del steps
        return {name: torch.zeros_like(values) for name in self.state_names}


def open_optimizer(config: OptimizerConfig) -> OptimizerKind:
    """Return the optimizer that a config names."""
    module, _, name = OPTIMIZERS[config.kind].partition(":")
    return getattr(importlib.import_module(module), name)(config)


def optimizer_text(stored: Mapping[str, Any]) -> str:
    """Return the section ``optimizer`` of a stored config as one line.

    Args:
        stored: the section. That of an older run has no kind, which means AdamW.
    """
    names = {field.name for field in fields(OptimizerConfig)}
    known = {name: value for name, value in stored.items() if name in names}
    config = OptimizerConfig(**known)
    clipped = f"gradient norm clipped at {config.max_grad_norm:g}"
    return f"{open_optimizer(config).describe()}, {clipped}"
