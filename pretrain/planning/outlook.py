"""What one GPU holds, and what the whole run takes: the numbers that 'pretrain plan' prints."""

from dataclasses import dataclass, replace

from mobilellama.pretrain.planning.gpus import Gpu
from mobilellama.pretrain.planning.outline import (
    GpuMemory,
    PlannedTraining,
    gpu_memory,
    largest_micro_batch,
)
from mobilellama.pretrain.planning.work import (
    checkpoint_bytes,
    kept_checkpoints,
    sent_bytes,
    stall_s,
)
from mobilellama.pretrain.state.config import CheckpointConfig


@dataclass(frozen=True, kw_only=True)
class RunOutlook:
    """What 'pretrain plan' prints. The keys of its JSON are these names."""

    gpus: int
    gpu: str
    engine: str
    precision: str
    parameters: dict[str, int]
    """By part of the model."""
    frozen_parameters: int
    """Of them, those that do not train."""
    micro_batch_size: int
    micro_batches: int
    """Of a rank in one step."""
    gradient_checkpointing: bool
    memory_bytes: GpuMemory
    """Of one GPU."""
    room_bytes: float
    """Of one GPU, without the reserve."""
    fits: bool
    largest_micro_batch: int | None
    """That fits and divides the batch, without gradient checkpointing. None: none fits."""
    largest_micro_batch_checkpointing: int | None
    """The same with gradient checkpointing."""
    remedies: list[str]
    """What would fit, if the run does not."""
    tokens_per_step: int
    flops_per_step: float
    """Of all GPUs."""
    step_s: float
    sent_bytes_per_step: float
    """By one rank."""
    communication_s: float
    """Seconds of a step if nothing of it is hidden behind computing. Part of the MFU."""
    hours: float
    gpu_hours: float
    mfu: float
    checkpoint_bytes: int
    checkpoints: int
    """Kept at the end of the run."""
    disk_bytes: int
    """Of the kept checkpoints, of the one that is being saved, and of frozen weights in fp32."""
    stall_s: float
    """Of one save."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run is planned for."""

    gpu_name: str
    gpu: Gpu
    gpus: int
    mfu: float
    """Share of the peak that the run reaches, communication included."""
    reserve_gib: float
    """GiB of each GPU that nothing is planned into."""
    network_bytes_per_s: float
    """Of one rank."""
    disk_bytes_per_s: float
    """Of all ranks together."""

    @property
    def room_bytes(self) -> float:
        """Memory of one GPU without the reserve."""
        return self.gpu.memory_bytes - self.reserve_gib * 2**30


def look_at(trained: PlannedTraining, machine: Machine, checkpoint: CheckpointConfig) -> RunOutlook:
    """Return the outlook of a run.

    Raises:
        ConfigError: the GPUs cannot divide the batch.
    """
    train, gpus = trained.train, machine.gpus
    micro_batches = train.grad_accum_steps(gpus)
    count = sum(trained.groups)
    memory = _memory(trained, gpus)
    plain, again = (_largest(trained, machine, checkpointing=flag) for flag in (False, True))
    flops = trained.flops_per_token * train.tokens_per_step
    step_s = flops / (gpus * machine.gpu.peak_tflops * 1e12 * machine.mfu)
    sent = sent_bytes(
        count,
        trained.engine,
        precision=trained.precision,
        micro_batches=micro_batches,
        world_size=gpus,
    )
    saved = checkpoint_bytes(count, trained.optimizer.kind)
    kept = kept_checkpoints(checkpoint, train.max_steps)
    fits = memory.total <= machine.room_bytes
    return RunOutlook(
        gpus=gpus, gpu=machine.gpu_name, engine=trained.engine_name, precision=trained.precision,
        parameters=trained.parts, frozen_parameters=trained.frozen,
        micro_batch_size=train.micro_batch_size, micro_batches=micro_batches,
        gradient_checkpointing=train.gradient_checkpointing,
        memory_bytes=memory, room_bytes=machine.room_bytes, fits=fits,
        largest_micro_batch=plain, largest_micro_batch_checkpointing=again,
        remedies=[] if fits else remedies(trained, machine),
        tokens_per_step=train.tokens_per_step, flops_per_step=flops, step_s=step_s,
        sent_bytes_per_step=sent, communication_s=sent / machine.network_bytes_per_s,
        hours=step_s * train.max_steps / 3600, gpu_hours=step_s * train.max_steps / 3600 * gpus,
        mfu=machine.mfu,
        checkpoint_bytes=saved, checkpoints=kept,
        disk_bytes=saved * (kept + 1) + 4 * trained.frozen,
        stall_s=stall_s(saved, world_size=gpus, disk_bytes_per_s=machine.disk_bytes_per_s),
    )  # fmt: skip


def _largest(trained: PlannedTraining, machine: Machine, *, checkpointing: bool) -> int | None:
    return largest_micro_batch(
        trained,
        world_size=machine.gpus,
        checkpointing=checkpointing,
        room_bytes=machine.room_bytes,
    )


def _memory(trained: PlannedTraining, gpus: int) -> GpuMemory:
    return gpu_memory(
        trained,
        world_size=gpus,
        micro_batch_size=trained.train.micro_batch_size,
        checkpointing=trained.train.gradient_checkpointing,
    )


def remedies(trained: PlannedTraining, machine: Machine) -> list[str]:
    """Return the flags of which each line makes the run fit; an empty list if none does."""
    found: list[str] = []
    for again, flag in ((False, ""), (True, " --train.gradient_checkpointing true")):
        if size := _largest(trained, machine, checkpointing=again):
            found.append(f"--train.micro_batch_size {size}{flag}")
    for flags, changed in _other_engines(trained):
        if _memory(changed, machine.gpus).total <= machine.room_bytes:
            found.append(flags)
    if more := _enough_gpus(trained, machine):
        found.append(f"--gpus {more}")
    return found


def _enough_gpus(trained: PlannedTraining, machine: Machine) -> int | None:
    """Return the first number of GPUs, doubled and doubled, with which the run fits."""
    more, batch = machine.gpus * 2, trained.train.global_batch_size
    while batch % (more * trained.train.micro_batch_size) == 0:
        if _memory(trained, more).total <= machine.room_bytes:
            return more
        more *= 2
    return None


def _other_engines(trained: PlannedTraining) -> list[tuple[str, PlannedTraining]]:
    """Return engines that may hold less, each with the flags that choose it."""
    engine = trained.engine
    found: list[tuple[str, PlannedTraining]] = []
    if engine.kind == "ddp":
        sharded = replace(engine, kind="deepspeed", zero_stage=1)
        found.append(("--engine.kind deepspeed", replace(trained, engine=sharded)))
    if engine.kind == "ddp" or engine.zero_stage == 1:
        sharded = replace(engine, kind="deepspeed", zero_stage=2)
        flags = "--engine.kind deepspeed --engine.zero_stage 2"
        found.append((flags, replace(trained, engine=sharded)))
    return found
