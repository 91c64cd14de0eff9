"""Bytes of weights, gradients, masters and optimizer state that one rank holds.

Counted with DeepSpeed 0.19.8 and torch 2.13 after the last backward pass of a step. N is the number
of parameters and W that of ranks. DeepSpeed pads each group of parameters to a multiple of 2 W, and
gives each rank an equal cut of it.

    engine and precision      weights  gradients        masters and AdamW's state
    deepspeed 1, bf16         2 N      4 N + 2 N        12 N / W
    deepspeed 2, bf16         2 N      2 N + 4 N / W    12 N / W
    deepspeed 1, fp32         4 N      4 N              12 N / W
    deepspeed 2, fp32         4 N      4 N + 4 N / W    12 N / W
    ddp, both                 4 N      4 N              8 N: the weights are the masters

In stage 2 the full gradients live during the backward pass alone. All engines but BF16_Optimizer
(stage 1 with bf16) also allocate a bucket for the reduction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mobilellama.config import ConfigError
from mobilellama.pretrain.engines.config import EngineConfig

STATE_TENSORS = {"adamw": 2, "lion": 1}
"""Tensors as large as the masters that an optimizer keeps, by the value of ``optimizer.kind``."""

_FP32, _BF16 = 4, 2


@dataclass(frozen=True, kw_only=True)
class StateMemory:
    """Bytes of one rank."""

    weights: int
    gradients: int
    """All that exist at the end of a backward pass."""
    masters: int
    """fp32 copies of the weights; 0 where the weights are fp32 and whole."""
    optimizer: int
    bucket: int
    """The buffer in which gradients are reduced; filled during the backward pass or the step."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.masters + self.optimizer + self.bucket


def state_memory(
    groups: Sequence[int],
    engine: EngineConfig,
    *,
    precision: str,
    optimizer: str,
    world_size: int,
    frozen: int = 0,
) -> StateMemory:
    """Return what one rank holds beside activations.

    Args:
        groups: parameters that train, of each of the optimizer's groups.
        engine: the engine's config.
        precision: bf16 or fp32.
        optimizer: the value of ``optimizer.kind``.
        world_size: number of ranks.
        frozen: parameters that do not train. Every rank holds them whole.

    Raises:
        ConfigError: the engine is one that was not counted.
    """
    if engine.kind == "ddp":
        return _ddp(sum(groups), frozen, STATE_TENSORS[optimizer])
    if engine.kind != "deepspeed":  # a new engine is not counted as if it were DeepSpeed
        rule = "is an engine whose memory was not counted"
        raise ConfigError("engine.kind", engine.kind, rule, "Plan with deepspeed or ddp")
    align = 2 * world_size
    padded = sum(-(-group // align) * align for group in groups)
    cut = padded // world_size
    width = _BF16 if precision == "bf16" else _FP32
    return StateMemory(
        weights=width * (padded + frozen),
        gradients=_gradients(sum(groups), padded, cut, engine, precision),
        masters=_FP32 * cut,
        optimizer=_FP32 * cut * STATE_TENSORS[optimizer],
        bucket=_bucket(engine, precision),
    )


def _ddp(parameters: int, frozen: int, state_tensors: int) -> StateMemory:
    # The buckets of DistributedDataParallel are the gradients themselves.
    return StateMemory(
        weights=_FP32 * (parameters + frozen),
        gradients=_FP32 * parameters,
        masters=0,
        optimizer=_FP32 * parameters * state_tensors,
        bucket=0,
    )


def _gradients(parameters: int, padded: int, cut: int, engine: EngineConfig, precision: str) -> int:
    width = _BF16 if precision == "bf16" else _FP32
    sums = _FP32 if precision == "fp32" or engine.grad_accum_dtype == "fp32" else _BF16
    if engine.zero_stage == 2:
        return width * parameters + sums * cut
    if _is_bf16_optimizer(engine, precision):
        return width * parameters + sums * padded
    return width * parameters


def _bucket(engine: EngineConfig, precision: str) -> int:
    if _is_bf16_optimizer(engine, precision):
        return 0
    width = _FP32 if precision == "fp32" or engine.communication_dtype == "fp32" else _BF16
    return width * engine.bucket_elements


def _is_bf16_optimizer(engine: EngineConfig, precision: str) -> bool:
    """Return whether DeepSpeed takes its BF16_Optimizer, which sums fp32 gradients of all ranks."""
    return precision == "bf16" and engine.zero_stage == 1 and engine.grad_accum_dtype == "fp32"
