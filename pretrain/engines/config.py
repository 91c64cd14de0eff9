"""The section ``engine`` of a run's config; it is read without torch."""

from dataclasses import dataclass
from typing import Literal

from mobilellama.config import require_at_least


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What optimises, and in which precision."""

    kind: Literal["deepspeed", "ddp"] = "deepspeed"
    """deepspeed: ZeRO; ddp: torch's DistributedDataParallel, the whole state on every rank."""
    zero_stage: Literal[1, 2] = 1
    """DeepSpeed: 1 shares the optimizer state out, 2 the gradients too."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of weights and activations in forward and backward; masters and moments are fp32. auto is
    bf16 where the hardware computes it, else fp32; a run that is resumed keeps what it began
    with. Part of a run's identity, resolved."""
    grad_accum_dtype: Literal["fp32", "bf16"] = "fp32"
    """DeepSpeed under bf16: dtype in which micro-batches' gradients add up."""
    communication_dtype: Literal["fp32", "bf16"] = "fp32"
    """DeepSpeed under bf16: dtype in which gradients are reduced over ranks."""
    bucket_elements: int = 500_000_000
    """DeepSpeed: elements reduced or gathered at a time."""
    compile: bool = True
    """torch.compile each layer on CUDA; a CPU would need a C++ compiler and is left alone."""

    def __post_init__(self) -> None:
        require_at_least("engine.bucket_elements", self.bucket_elements, 1)
