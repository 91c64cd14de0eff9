"""The kinds of memory of one GPU, and the largest micro-batch that fits."""

from dataclasses import replace

import pytest

from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.planning.outline import PlannedTraining, gpu_memory, largest_micro_batch
from mobilellama.pretrain.sections import ModelConfig, TrainConfig

TRAINED = PlannedTraining(
    model=ModelConfig(), train=TrainConfig(global_batch_size=96), engine=EngineConfig(),
    optimizer=OptimizerConfig(),
)  # fmt: skip


def test_the_largest_micro_batch_is_the_last_one_below_the_room() -> None:
    """96 samples over 2 GPUs divide into micro-batches of 1, 2, 3, 4, 6, 8, 12, ..."""
    six, eight = (
        gpu_memory(TRAINED, world_size=2, micro_batch_size=size, checkpointing=False).total
        for size in (6, 8)
    )
    for room, expected in ((six, 6), (eight - 1, 6), (eight, 8)):
        found = largest_micro_batch(TRAINED, world_size=2, checkpointing=False, room_bytes=room)
        assert found == expected
    assert largest_micro_batch(TRAINED, world_size=2, checkpointing=False, room_bytes=1e9) is None


def test_recomputing_keeps_less() -> None:
    whole, again = (
        gpu_memory(TRAINED, world_size=2, micro_batch_size=8, checkpointing=flag)
        for flag in (False, True)
    )
    assert again.activations < whole.activations / 5
    assert replace(again, activations=whole.activations) == whole


def test_ddp_in_bf16_keeps_copies_of_the_matrices() -> None:
    engine = EngineConfig(kind="ddp", precision="bf16")
    ddp = replace(TRAINED, engine=engine)
    more = (
        gpu_memory(ddp, world_size=2, micro_batch_size=1, checkpointing=True).activations
        - gpu_memory(TRAINED, world_size=2, micro_batch_size=1, checkpointing=True).activations
    )
    matrices = 402_653_184 + 830_472_192
    stream = 2 * 2048 * 2048
    assert more == 2 * matrices + stream * (24 + 3 + 3)


@pytest.mark.parametrize(
    ("engine", "name", "precision"),
    [
        (EngineConfig(), "deepspeed ZeRO-1", "bf16"),
        (EngineConfig(zero_stage=2, precision="fp32"), "deepspeed ZeRO-2", "fp32"),
        (EngineConfig(kind="ddp"), "ddp", "bf16"),
    ],
)
def test_engine_and_precision_have_names(engine: EngineConfig, name: str, precision: str) -> None:
    trained = replace(TRAINED, engine=engine)
    assert (trained.engine_name, trained.precision) == (name, precision)
