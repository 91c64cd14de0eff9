"""Sections of a run's config: batches that divide, values in range."""

import re
from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.sections import MixtureConfig, ModelConfig, TrainConfig, ValidationConfig


@pytest.mark.parametrize(("world_size", "steps"), [(1, 12), (2, 6), (3, 4), (12, 1)])
def test_the_global_batch_is_shared_out_over_processes_and_micro_batches(
    world_size: int, steps: int
) -> None:
    train = TrainConfig(global_batch_size=48, micro_batch_size=4, seq_len=100)
    assert train.grad_accum_steps(world_size) == steps
    assert train.tokens_per_step == 4800


def test_a_global_batch_that_does_not_divide_is_refused_with_the_sizes_that_do() -> None:
    train = TrainConfig(global_batch_size=48, micro_batch_size=4)
    with pytest.raises(ConfigError) as caught:
        train.grad_accum_steps(5)
    assert str(caught.value) == (
        "train.global_batch_size = 48: must be a multiple of train.micro_batch_size * processes "
        "= 4 * 5 = 20. With this micro-batch it divides over 1, 2, 3, 4, 6, 12 processes."
    )


def test_a_micro_batch_that_never_divides_is_to_be_lowered() -> None:
    with pytest.raises(ConfigError, match=r"= 7 \* 1 = 7\. Lower train\.micro_batch_size\."):
        TrainConfig(global_batch_size=48, micro_batch_size=7).grad_accum_steps(1)


@pytest.mark.parametrize(
    ("config_class", "fields", "message"),
    [
        (TrainConfig, {"seq_len": 0}, "train.seq_len = 0: must be at least 1"),
        (TrainConfig, {"micro_batch_size": -2}, "train.micro_batch_size = -2: must be at least 1"),
        (TrainConfig, {"max_steps": 0}, "train.max_steps = 0: must be at least 1"),
        (TrainConfig, {"loss_chunk_tokens": 0}, "train.loss_chunk_tokens = 0: must be at least"),
        (MixtureConfig, {"path": "x", "workers": -1}, "data.workers = -1: must be at least 0"),
        (ValidationConfig, {"every_steps": 0}, "validation.every_steps = 0: must be at least 1"),
        (
            ValidationConfig,
            {"samples_per_subset": 0},
            "validation.samples_per_subset = 0: must be at least 1",
        ),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_dotted_name(
    config_class: Any, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config_class(**fields)


def test_heads_default_to_one_key_for_each_query_and_their_width_follows() -> None:
    assert (ModelConfig().kv_heads, ModelConfig().head_dim) == (16, 128)
    grouped = ModelConfig(d_model=96, n_heads=6, n_kv_heads=2)
    assert (grouped.kv_heads, grouped.head_dim) == (2, 16)


def test_a_remedy_names_eight_numbers_of_processes_at_most() -> None:
    train = TrainConfig(global_batch_size=7 * 2**9, micro_batch_size=1)
    with pytest.raises(
        ConfigError, match=r"divides over 1, 2, 4, 7, 8, 14, 16, 28, \.\.\. processes"
    ):
        train.grad_accum_steps(3)
