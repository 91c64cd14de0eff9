"""The bytes of a rank against those of the tensors that a real engine holds on three ranks."""

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.optimizers.kind import open_optimizer
from mobilellama.pretrain.optimizers.table import OPTIMIZERS
from mobilellama.pretrain.planning.parameters import parameter_groups_of
from mobilellama.pretrain.planning.state_memory import STATE_TENSORS, state_memory
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.engine_steps import MODEL
from tests.pretrain.helpers.held import held_by_engine

ROPE = 2 * 4 * MODEL.max_seq_len * MODEL.head_dim
# Counters of steps, of 4 bytes: DDP's AdamW has one for each of 21 parameters. fp32 labels.
SCALARS = 128


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "precision", "stage", "world_size"),
    [
        ("deepspeed", "bf16", 1, 2),
        ("deepspeed", "bf16", 1, 3),  # 3 ranks need padding, the same in all stages
        ("deepspeed", "bf16", 2, 2),
        ("deepspeed", "fp32", 1, 2),
        ("deepspeed", "fp32", 2, 2),
        ("ddp", "bf16", 1, 2),
    ],
)
def test_a_rank_holds_what_the_plan_says(
    kind: str, precision: str, stage: int, world_size: int
) -> None:
    engine = EngineConfig(
        kind="ddp" if kind == "ddp" else "deepspeed", zero_stage=2 if stage == 2 else 1
    )
    planned = state_memory(
        parameter_groups_of(MODEL), engine,
        precision=precision, optimizer="adamw", world_size=world_size,
    )  # fmt: skip
    # Stage 2 has freed the whole gradients and the bucket by the end of the backward pass.
    freed = 0
    if stage == 2:
        width = 2 if precision == "bf16" else 4
        freed = width * sum(parameter_groups_of(MODEL)) + planned.bucket
    for full, after in run_ranks(held_by_engine, world_size, kind, precision, stage):
        held = sum(full.values()) - ROPE
        assert 0 <= held - (planned.total - freed) <= SCALARS
        kept = planned.weights + planned.masters + planned.optimizer
        if kind == "ddp":  # the buckets stay
            kept += planned.gradients
        if kind == "deepspeed" and (precision, stage) == ("bf16", 1):  # so do the fp32 sums
            kept += planned.gradients - 2 * sum(parameter_groups_of(MODEL))
        assert 0 <= sum(after.values()) - ROPE - kept <= SCALARS


def test_every_optimizer_has_the_number_of_its_states() -> None:
    counts = {
        kind: len(open_optimizer(OptimizerConfig(kind=kind)).state_names) for kind in OPTIMIZERS
    }
    assert counts == STATE_TENSORS


def test_the_1_4b_on_160_gpus_holds_8_bytes_a_parameter_and_a_160th_of_12() -> None:
    number = 1_364_297_728
    planned = state_memory(
        [number], EngineConfig(), precision="bf16", optimizer="adamw", world_size=160
    )
    assert planned.total == pytest.approx(8 * number + 12 * number / 160, rel=1e-6)
    assert planned.total / 2**30 == pytest.approx(10.26, abs=0.01)


def test_an_engine_that_was_not_counted_is_refused() -> None:
    engine = EngineConfig(kind="other")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"engine.kind = other: is an engine whose memory"):
        state_memory([8], engine, precision="bf16", optimizer="adamw", world_size=2)
