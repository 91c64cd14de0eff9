"""Bytes sent by hand-made arithmetic, and the checkpoints of a run."""

import pytest

from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.planning.work import (
    checkpoint_bytes,
    kept_checkpoints,
    sent_bytes,
    stall_s,
)
from mobilellama.pretrain.state.config import CheckpointConfig


@pytest.mark.parametrize(
    ("engine", "precision", "micro_batches", "expected"),
    [
        # A half of: an all-reduce of 4 bytes sends each twice, a gather of the weights once.
        (EngineConfig(), "bf16", 3, 0.5 * (2 * 4 + 2)),
        (EngineConfig(), "fp32", 3, 0.5 * (2 * 4 + 4)),
        (EngineConfig(communication_dtype="bf16"), "bf16", 3, 0.5 * (2 * 2 + 2)),
        (EngineConfig(zero_stage=2), "bf16", 3, 0.5 * (3 * 4 + 2)),
        (EngineConfig(kind="ddp"), "bf16", 3, 0.5 * 2 * 4),
    ],
)
def test_two_ranks_send_half_of_what_many_do(
    engine: EngineConfig, precision: str, micro_batches: int, expected: float
) -> None:
    sent = sent_bytes(1000, engine, precision=precision, micro_batches=micro_batches, world_size=2)
    assert sent == 1000 * expected


def test_one_rank_sends_nothing() -> None:
    sent = sent_bytes(1000, EngineConfig(), precision="bf16", micro_batches=3, world_size=1)
    assert sent == 0


def test_a_checkpoint_has_12_bytes_a_parameter_with_adamw_and_8_with_lion() -> None:
    assert checkpoint_bytes(10, "adamw") == 120
    assert checkpoint_bytes(10, "lion") == 80


@pytest.mark.parametrize(
    ("max_steps", "kept"),
    [
        (247_955, 24 + 3),  # 10,000 to 240,000; 247,000, 247,500 and the last step
        (1_000, 2),  # 500 and 1,000
        (100, 1),
        (10_000, 3),  # of the newest three the last one is also a tenth thousand
    ],
)
def test_the_checkpoints_that_a_run_leaves(max_steps: int, kept: int) -> None:
    assert kept_checkpoints(CheckpointConfig(), max_steps) == kept


def test_without_every_only_the_newest_are_kept() -> None:
    assert kept_checkpoints(CheckpointConfig(keep_every_steps=None), 247_955) == 3


def test_the_slower_of_cpu_and_disk_decides_the_stall() -> None:
    assert stall_s(16e9, world_size=8, disk_bytes_per_s=2e9) == 8.0
    assert stall_s(16e9, world_size=8, disk_bytes_per_s=20e9) == pytest.approx(2 * 2.7)
