"""The plan of a run: what one GPU holds, and what the run takes."""

from dataclasses import asdict, dataclass

from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.planning.activations import (
    Shape,
    activation_bytes,
    autocast_bytes,
    batch_bytes,
    head_bytes,
)
from mobilellama.pretrain.planning.parameters import parameter_groups_of, parameters_by_part
from mobilellama.pretrain.planning.state_memory import state_memory
from mobilellama.pretrain.sections import ModelConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class PlannedTraining:
    """What a run trains, as far as memory depends on it."""

    model: ModelConfig
    train: TrainConfig
    engine: EngineConfig
    optimizer: OptimizerConfig

    @property
    def precision(self) -> str:
        """bf16 or fp32; every GPU of the table computes bf16."""
        return "fp32" if self.engine.precision == "fp32" else "bf16"

    @property
    def engine_name(self) -> str:
        """The engine, with DeepSpeed's stage."""
        engine = self.engine
        return engine.kind if engine.kind == "ddp" else f"deepspeed ZeRO-{engine.zero_stage}"


@dataclass(frozen=True, kw_only=True)
class GpuMemory:
    """Bytes of one GPU by kind. Not all of them live at the same moment: the sum is the most."""

    weights: int
    gradients: int
    masters: int
    optimizer_state: int
    reduction_bucket: int
    activations: int
    loss_head: int
    batch: int

    @property
    def total(self) -> int:
        """All kinds."""
        return sum(asdict(self).values())


def gpu_memory(
    trained: PlannedTraining, *, world_size: int, micro_batch_size: int, checkpointing: bool
) -> GpuMemory:
    """Return what one GPU holds with a micro-batch of some samples."""
    model, train, precision = trained.model, trained.train, trained.precision
    state = state_memory(
        parameter_groups_of(model),
        trained.engine,
        precision=precision,
        optimizer=trained.optimizer.kind,
        world_size=world_size,
    )
    shape = Shape(
        samples=micro_batch_size,
        seq_len=train.seq_len,
        element_bytes=2 if precision == "bf16" else 4,
    )
    activations = activation_bytes(model, shape, checkpointing=checkpointing)
    if trained.engine.kind == "ddp" and precision == "bf16":
        parts = parameters_by_part(model)
        matrices = parts["attention"] + parts["mlp"]
        activations += autocast_bytes(model, shape, matrices=matrices, checkpointing=checkpointing)
    return GpuMemory(
        weights=state.weights,
        gradients=state.gradients,
        masters=state.masters,
        optimizer_state=state.optimizer,
        reduction_bucket=state.bucket,
        activations=activations,
        loss_head=head_bytes(model, shape, chunk_tokens=train.loss_chunk_tokens),
        batch=batch_bytes(shape),
    )


def largest_micro_batch(
    trained: PlannedTraining, *, world_size: int, checkpointing: bool, room_bytes: float
) -> int | None:
    """Return the largest micro-batch that fits and divides the batch; None if none does."""
    batch = trained.train.global_batch_size
    for size in range(batch // world_size, 0, -1):
        if batch % (size * world_size) == 0:
            memory = gpu_memory(
                trained, world_size=world_size, micro_batch_size=size, checkpointing=checkpointing
            )
            if memory.total <= room_bytes:
                return size
    return None
