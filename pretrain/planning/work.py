"""What a run sends and writes: communication and checkpoints.

Bytes that a rank sends in a step are those of ring collectives over W ranks, of N parameters:

    deepspeed stage 1   all-reduce of the gradients, 2 (W-1)/W N g, and all-gather of the weights
    deepspeed stage 2   reduce-scatter of the gradients in each micro-batch, (W-1)/W N g, and the
                        same all-gather, (W-1)/W N w
    ddp                 all-reduce of fp32 gradients, 2 (W-1)/W 4 N

g and w are the bytes of an element as it is reduced, and of a weight.
"""

from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.planning.state_memory import STATE_TENSORS
from mobilellama.pretrain.state.config import CheckpointConfig

SAVING_S_PER_GB = 2.7
"""CPU seconds that a rank takes to write and hash a gigabyte of a checkpoint, measured on a CPU.
A save stops the training for as long."""


def sent_bytes(
    parameters: int, engine: EngineConfig, *, precision: str, micro_batches: int, world_size: int
) -> float:
    """Return the bytes that one rank sends in a step."""
    share = (world_size - 1) / world_size
    if engine.kind == "ddp":
        return share * 2 * 4 * parameters
    reduced = 4 if precision == "fp32" or engine.communication_dtype == "fp32" else 2
    weights = 2 if precision == "bf16" else 4
    times = micro_batches if engine.zero_stage == 2 else 2
    return share * parameters * (times * reduced + weights)


def checkpoint_bytes(parameters: int, optimizer: str) -> int:
    """Return the bytes of one checkpoint: fp32 masters and the optimizer's state."""
    return 4 * parameters * (1 + STATE_TENSORS[optimizer])


def kept_checkpoints(config: CheckpointConfig, max_steps: int) -> int:
    """Return the number of checkpoints that a whole run leaves."""
    saved = {*range(config.every_steps, max_steps + 1, config.every_steps), max_steps}
    newest = {*sorted(saved)[-config.keep_last :]}
    every = config.keep_every_steps
    return len(newest | {step for step in saved if every and step % every == 0})


def stall_s(checkpoint: float, *, world_size: int, disk_bytes_per_s: float) -> float:
    """Return the seconds that a save stops the training.

    Each rank writes an equal part. The slower of a rank's CPU and the common disk decides.
    """
    return max(
        checkpoint / world_size / 1e9 * SAVING_S_PER_GB,
        checkpoint / disk_bytes_per_s,
    )
