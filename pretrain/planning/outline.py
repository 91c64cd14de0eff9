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
from mobilellama.pretrain.planning.adapters import adapted_bytes, adapter_parameters
from mobilellama.pretrain.planning.parameters import (
    adapter_flops_per_token,
    flops_per_token,
    parameter_groups_of,
    parameters_by_part,
)
from mobilellama.pretrain.planning.state_memory import state_memory
from mobilellama.pretrain.sections import ModelConfig, TrainConfig
from mobilellama.run_record import Adapters


@dataclass(frozen=True, kw_only=True)
class PlannedTraining:
    """What a run trains, as far as memory depends on it."""

    model: ModelConfig
    train: TrainConfig
    engine: EngineConfig
    optimizer: OptimizerConfig
    adapters: Adapters | None = None
    """What trains in place of the model's own weights."""

    @property
    def parts(self) -> dict[str, int]:
        """Parameters by part."""
        parts = parameters_by_part(self.model)
        return parts | {"adapters": sum(self.groups)} if self.adapters else parts

    @property
    def groups(self) -> tuple[int, ...]:
        """Parameters that train, of each of the optimizer's groups."""
        if self.adapters:
            return (adapter_parameters(self.model, self.adapters),)
        return parameter_groups_of(self.model)

    @property
    def frozen(self) -> int:
        """Parameters that do not train."""
        return sum(parameter_groups_of(self.model)) if self.adapters else 0

    @property
    def head_is_frozen(self) -> bool:
        """Whether the head does not train."""
        return self.adapters is not None

    def activations(self, shape: Shape, *, checkpointing: bool) -> int:
        """Return the most bytes that the model, without its loss, keeps for the backward pass."""
        model = self.model
        if self.adapters:
            kept = adapted_bytes(model, shape, self.adapters, checkpointing=checkpointing)
        else:
            kept = activation_bytes(model, shape, checkpointing=checkpointing)
        if self.engine.kind == "ddp" and self.precision == "bf16":
            parts = parameters_by_part(model)
            matrices = parts["attention"] + parts["mlp"]
            kept += autocast_bytes(model, shape, matrices=matrices, checkpointing=checkpointing)
        return kept

    @property
    def flops_per_token(self) -> float:
        """FLOPs of the forward and backward pass."""
        model, seq_len = self.model, self.train.seq_len
        if self.adapters:
            return adapter_flops_per_token(model, seq_len, adapters=sum(self.groups))
        return flops_per_token(model, seq_len)

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
        trained.groups,
        trained.engine,
        precision=precision,
        optimizer=trained.optimizer.kind,
        world_size=world_size,
        frozen=trained.frozen,
    )
    shape = Shape(
        samples=micro_batch_size,
        seq_len=train.seq_len,
        element_bytes=2 if precision == "bf16" else 4,
    )
    return GpuMemory(
        weights=state.weights,
        gradients=state.gradients,
        masters=state.masters,
        optimizer_state=state.optimizer,
        reduction_bucket=state.bucket,
        activations=trained.activations(shape, checkpointing=checkpointing),
        loss_head=head_bytes(
            model,
            shape,
            chunk_tokens=train.loss_chunk_tokens,
            frozen=trained.head_is_frozen,
        ),
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
