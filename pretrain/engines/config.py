"""The section ``engine`` of a run's config; it is read without torch."""

from dataclasses import dataclass, fields
from typing import Literal

from mobilellama.config import require_at_least


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The engine and its precision."""

    kind: Literal["deepspeed", "ddp"] = "deepspeed"
    """deepspeed: ZeRO; ddp: torch's DistributedDataParallel, the whole state on every rank."""
    zero_stage: Literal[1, 2] = 1
    """For deepspeed. 1: partition the optimizer state over ranks; 2: the gradients too."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of weights and activations in forward and backward. Masters and moments are always
    fp32. auto: bf16 if the hardware computes it, else fp32. A resumed run keeps the precision
    that it began with. Part of a run's identity."""
    grad_accum_dtype: Literal["fp32", "bf16"] = "fp32"
    """For deepspeed with bf16: dtype in which the gradients of micro-batches are added up."""
    communication_dtype: Literal["fp32", "bf16"] = "fp32"
    """For deepspeed with bf16: dtype in which gradients are reduced over ranks."""
    bucket_elements: int = 500_000_000
    """For deepspeed with zero_stage 2 or fp32: number of elements that one collective reduces. With
    zero_stage 1 and bf16, DeepSpeed reduces all gradients at once."""
    compile: bool = True
    """Compile each layer with torch.compile on CUDA. On a CPU it has no effect, because it would
    need a C++ compiler."""

    def __post_init__(self) -> None:
        require_at_least("engine.bucket_elements", self.bucket_elements, 1)

    def ignored(self, precision: str) -> list[str]:
        """Return a sentence for each field that was changed and has no effect.

        The collectives of a step tell (tests/pretrain/traced/test_collectives.py).

        Args:
            precision: bf16 or fp32, ``auto`` resolved.
        """
        of_bf16 = ("grad_accum_dtype", "communication_dtype")
        if self.kind != "deepspeed":
            names, why = (*of_bf16, "bucket_elements"), f"engine.kind is {self.kind}"
        elif precision != "bf16":
            names, why = of_bf16, f"the precision is {precision}"
        elif self.zero_stage == 1:
            names, why = ("bucket_elements",), "zero_stage 1 reduces all bf16 gradients at once"
        else:
            return []
        defaults = {field.name: field.default for field in fields(self)}
        return [
            f"engine.{name} = {value} has no effect: {why}"
            for name in names
            if (value := getattr(self, name)) != defaults[name]
        ]
