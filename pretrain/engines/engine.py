"""The contract between the loop and what optimises: DeepSpeed ZeRO, or plain DDP.

A step is: ``forward`` and ``backward`` for each micro-batch, then ``step``. The gradients that
a step applies are the *sum* over micro-batches and ranks of what ``backward`` was given; each
engine undoes its own averaging. The state is fp32 master weights and both moments, by
parameter name; each rank owns fragments of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from mobilellama.pretrain.model import LossSums


@dataclass(frozen=True)
class StepReport:
    """What a step did."""

    grad_norm: float
    """Global norm before clipping; inf where it was not finite."""
    applied: bool
    """Whether the weights changed; a step with a gradient that is not finite is skipped."""


@dataclass(frozen=True)
class Fragment:
    """A contiguous piece of one parameter's state, flat, in fp32; views, not copies."""

    name: str
    start: int
    """Index of the first element in the flattened parameter."""
    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


class StateSource(Protocol):
    """Where an engine's state comes from: a first initialisation or a checkpoint."""

    optimizer_step: int
    """Steps that AdamW has applied."""

    def read(self, fragment: Fragment) -> None:
        """Fill the fragment's three tensors in place."""
        ...


class Engine(Protocol):
    """See the module's docstring."""

    optimizer_step: int
    """Steps that AdamW has applied."""

    def forward(self, inputs: Mapping[str, Tensor], *, last: bool) -> LossSums:
        """Run the model on one micro-batch; after the step's `last` one gradients are reduced."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to the step's."""
        ...

    def step(self, lr_factor: float) -> StepReport:
        """Reduce, clip and apply at `lr_factor` times each group's peak rate."""
        ...

    def fragments(self) -> Iterator[Fragment]:
        """Yield the pieces of the state that this rank owns."""
        ...

    def load(self, source: StateSource) -> None:
        """Set masters and moments from a source, and the working weights from the masters."""
        ...

    def train(self, mode: bool) -> None:
        """Switch the model between training and evaluation."""
        ...


def resolve_precision(precision: str, device: torch.device) -> Literal["bf16", "fp32"]:
    """Return what ``auto`` means on this device."""
    if precision == "bf16" or precision == "fp32":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if computes_bf16(torch.cpu.get_capabilities()) else "fp32"


def computes_bf16(cpu: Mapping[str, Any]) -> bool:
    """Return whether a CPU multiplies bf16 numbers itself.

    oneDNN calls bf16 supported where AVX-512 alone imitates it, at a quarter of the speed of fp32.

    Args:
        cpu: what ``torch.cpu.get_capabilities`` says of it.
    """
    return any(cpu.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16"))
