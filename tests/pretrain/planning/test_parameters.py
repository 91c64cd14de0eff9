"""Parameters by part against the model itself, which torch builds."""

import pytest

from mobilellama.pretrain.model import count_parameters
from mobilellama.pretrain.planning.parameters import (
    flops_per_token,
    parameter_groups_of,
    parameters_by_part,
)
from mobilellama.pretrain.sections import ModelConfig

SMALL = ModelConfig(vocab_size=96, d_model=32, n_layers=3, n_heads=4, n_kv_heads=2, d_ff=48)


@pytest.mark.parametrize("config", [ModelConfig(), SMALL])
def test_the_parts_sum_to_the_model(config: ModelConfig) -> None:
    parts = parameters_by_part(config)
    total, without_embedding = count_parameters(config)
    assert sum(parts.values()) == total == sum(parameter_groups_of(config))
    assert total - parts["embedding"] == without_embedding


def test_the_paper_s_model_has_1_364_297_728_parameters() -> None:
    assert sum(parameters_by_part(ModelConfig()).values()) == 1_364_297_728


def test_flops_of_a_model_counted_by_hand() -> None:
    # A layer: q and o 32 x 32, k and v 32 x 16, three of 32 x 48, two norms of 32.
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32
    assert flops_per_token(SMALL, 64) == 6 * (3 * layer + 32 + 32 * 96) + 12 * 3 * 32 * 64
