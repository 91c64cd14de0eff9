"""The contract between the training loop and an engine: DeepSpeed ZeRO, or plain DDP.

1. The loop calls ``forward`` and ``backward`` for each micro-batch, then ``step`` once.
2. ``step`` applies the *sum* of the gradients over micro-batches and ranks. An engine whose
   library averages undoes the average.
3. The state is fp32 master weights and the optimizer's named tensors, by parameter name. Each rank
   owns fragments of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from mobilellama.pretrain.model import LossSums
from mobilellama.pretrain.optimizers.kind import OptimizerKind


@dataclass(frozen=True)
class StepReport:
    """The result of a step."""

    grad_norm: float
    """Global norm before clipping; inf if it was not finite."""
    applied: bool
    """Whether the weights changed. A step whose gradient is not finite is skipped."""


@dataclass(frozen=True)
class Fragment:
    """A contiguous part of one parameter's state, flat, in fp32. The tensors are views."""

    name: str
    start: int
    """Index of the first element in the flattened parameter."""
    weight: Tensor
    state: Mapping[str, Tensor]
    """The optimizer's, by its ``state_names``. Each is as long as the weight."""


class StateSource(Protocol):
    """The source of an engine's state: initial weights or a checkpoint."""

    optimizer_step: int
    """Steps that the optimizer has applied. Bias corrections depend on them."""

    def read(self, fragment: Fragment) -> None:
        """Fill the fragment's tensors in place. The optimizer's hold its first state."""
        ...


class Engine(Protocol):
    """See the module's docstring."""

    optimizer: OptimizerKind
    """Defines the state that is kept besides the masters."""
    optimizer_step: int
    """Steps that the optimizer has applied. Bias corrections depend on them."""

    def forward(self, inputs: Mapping[str, Tensor], *, last: bool) -> LossSums:
        """Run the model on one micro-batch.

        Args:
            inputs: arguments of the model's forward, by name.
            last: whether this is the step's last micro-batch, after which gradients are reduced.
        """
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the step."""
        ...

    def step(self, lr_factor: float) -> StepReport:
        """Reduce, clip and apply the gradients. All ranks call it together.

        Args:
            lr_factor: the learning rate of each group is this times the group's peak.
        """
        ...

    def fragments(self) -> Iterator[Fragment]:
        """Yield the parts of the state that this rank owns."""
        ...

    def load(self, source: StateSource) -> None:
        """Load masters and optimizer state, then set the working weights from the masters."""
        ...

    def train(self, mode: bool) -> None:
        """Switch the model between training and evaluation."""
        ...


def resolve_precision(precision: str, device: torch.device) -> Literal["bf16", "fp32"]:
    """Return the precision that ``auto`` means on this device."""
    if precision == "bf16" or precision == "fp32":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if computes_bf16(torch.cpu.get_capabilities()) else "fp32"


def computes_bf16(cpu: Mapping[str, Any]) -> bool:
    """Return whether a CPU has instructions that multiply bf16 numbers.

    oneDNN reports support for bf16 on CPUs that only have AVX-512. These emulate bf16, at a
    quarter of the speed of fp32.

    Args:
        cpu: the result of ``torch.cpu.get_capabilities``.
    """
    return any(cpu.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16"))
