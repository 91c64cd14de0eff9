"""The collectives of a step under each engine and setting: how many, of how many bytes.

A setting that changes nothing here is dead, and has to be said (``EngineConfig.ignored``).
"""

from typing import Any

import pytest
import torch

from mobilellama.distributed import World
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.model import LanguageModel
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.engine_steps import MODEL, make_engine, take_step
from tests.pretrain.traced.collectives import Collectives

pytestmark = pytest.mark.slow

ELEMENTS = sum(parameter.numel() for parameter in LanguageModel(MODEL).parameters())
FP32, BF16 = 4 * ELEMENTS, 2 * ELEMENTS
MICRO_BATCHES = 2
Calls = list[tuple[str, int]]

SETTINGS: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp", "precision": "fp32"},
    "zero1": {},
    "zero1, buckets": {"bucket_elements": 4000},
    "zero1, bf16 reduced": {"communication_dtype": "bf16"},
    "zero1 fp32": {"precision": "fp32"},
    "zero1 fp32, buckets": {"precision": "fp32", "bucket_elements": 4000},
    "zero2": {"zero": 2},
    "zero2, buckets": {"zero": 2, "bucket_elements": 4000},
}


def calls_of_a_step() -> dict[str, Calls]:
    """Return the collectives of an engine's second step, by setting."""
    torch.set_num_threads(1)
    world = World(DistributedConfig(accelerator="cpu", threads=1))
    found: dict[str, Calls] = {}
    for name, fields in SETTINGS.items():
        given = {"kind": "deepspeed", "precision": "bf16", "micro": 2, "world": world} | fields
        engine = make_engine(**given)
        take_step(engine, world, 0, micro=2)
        with Collectives() as collectives:
            take_step(engine, world, 1, micro=2)
        found[name] = collectives.calls
    return found


@pytest.fixture(scope="module")
def calls() -> dict[str, Calls]:
    first, second = run_ranks(calls_of_a_step, 2)
    assert first == second
    return first


def reduced(calls: Calls) -> list[int]:
    """Return the bytes of each reduction of gradients; flags and norms are smaller."""
    return [size for name, size in calls if name == "allreduce_" and size > 1000]


def test_each_engine_reduces_every_gradient_once_a_step_but_zero_2_in_each_micro_batch(
    calls: dict[str, Calls],
) -> None:
    assert reduced(calls["ddp"]) == [FP32]
    assert reduced(calls["zero1"]) == [FP32]
    assert reduced(calls["zero1 fp32"]) == [FP32]
    assert reduced(calls["zero2"]) == [FP32] * MICRO_BATCHES


def test_zero_gathers_each_weight_once_a_step_and_ddp_none(calls: dict[str, Calls]) -> None:
    for name, size in (("zero1", BF16), ("zero2", BF16), ("zero1 fp32", FP32), ("ddp", 0)):
        gathered = [size for call, size in calls[name] if "gather" in call]
        assert sum(gathered) == size, name


def test_a_setting_that_reaches_the_collectives_changes_them(calls: dict[str, Calls]) -> None:
    for name in ("zero1 fp32", "zero2"):
        times = MICRO_BATCHES if name == "zero2" else 1
        in_buckets = reduced(calls[f"{name}, buckets"])
        assert len(in_buckets) > 5 * times
        assert sum(in_buckets) == FP32 * times
    assert reduced(calls["zero1, bf16 reduced"]) == [BF16]


def test_buckets_do_nothing_in_zero_1_with_bf16_and_that_is_said(calls: dict[str, Calls]) -> None:
    assert calls["zero1, buckets"] == calls["zero1"]
    assert EngineConfig(bucket_elements=4000).ignored("bf16") == [
        "engine.bucket_elements = 4000 has no effect: zero_stage 1 reduces all bf16 gradients at "
        "once"
    ]


def test_every_step_keeps_to_its_budget_of_collectives(calls: dict[str, Calls]) -> None:
    """A check of the order, the reductions, flags and norms, and the gathering."""
    budget = {"ddp": 3, "zero1": 4, "zero1 fp32": 6, "zero2": 10}
    for name, most in budget.items():
        assert len(calls[name]) <= most, (name, calls[name])
