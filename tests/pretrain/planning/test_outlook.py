"""What would make a run fit is found, and does fit."""

from dataclasses import replace

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.planning.gpus import GPUS, Gpu
from mobilellama.pretrain.planning.outline import PlannedTraining, gpu_memory
from mobilellama.pretrain.planning.outlook import Machine, RunOutlook, look_at, remedies
from mobilellama.pretrain.sections import ModelConfig, TrainConfig
from mobilellama.pretrain.state.config import CheckpointConfig

TRAINED = PlannedTraining(
    model=ModelConfig(), train=TrainConfig(global_batch_size=96), engine=EngineConfig(),
    optimizer=OptimizerConfig(),
)  # fmt: skip


def machine_of(gpus: int, gpu: str) -> Machine:
    return Machine(
        gpu_name=gpu, gpu=GPUS[gpu], gpus=gpus, mfu=0.5, reserve_gib=4,
        network_bytes_per_s=1e9, disk_bytes_per_s=1e9,
    )  # fmt: skip


def with_room(gpus: int, room_bytes: float) -> Machine:
    gpu = Gpu(memory_bytes=room_bytes, peak_tflops=1)
    return replace(machine_of(gpus, "l4"), gpu=gpu, reserve_gib=0)


def outlook_of(trained: PlannedTraining, gpus: int, gpu: str) -> RunOutlook:
    return look_at(trained, machine_of(gpus, gpu), CheckpointConfig())


def test_a_run_that_fits_needs_no_remedy() -> None:
    found = outlook_of(TRAINED, 2, "h200")
    assert found.fits
    assert found.remedies == []
    assert found.micro_batches == 12
    assert found.gpu_hours == 2 * found.hours


def test_a_model_that_no_change_makes_fit_has_no_remedy() -> None:
    found = outlook_of(TRAINED, 1, "a10")
    assert not found.fits
    assert found.largest_micro_batch is None
    assert found.remedies == []  # 20 bytes a parameter, whatever the micro-batch


def test_remedies_are_the_flags_that_fit() -> None:
    """ddp holds 16 bytes a parameter, and ZeRO 8 and a share of 12."""
    ddp = replace(TRAINED, engine=EngineConfig(kind="ddp"))
    sharded = gpu_memory(TRAINED, world_size=8, micro_batch_size=4, checkpointing=False)
    assert "--engine.kind deepspeed" in remedies(ddp, with_room(8, sharded.total))
    more = gpu_memory(TRAINED, world_size=4, micro_batch_size=4, checkpointing=False)
    assert remedies(TRAINED, with_room(2, more.total))[-1] == "--gpus 4"
    assert remedies(TRAINED, with_room(1, more.total))[-1] == "--gpus 4"  # doubled twice


def test_gpus_that_cannot_divide_the_batch_are_refused_with_those_that_can() -> None:
    with pytest.raises(ConfigError, match=r"divides over 1, 2, 3, 4, 6, 8, 12, 24 processes"):
        outlook_of(TRAINED, 7, "h200")
