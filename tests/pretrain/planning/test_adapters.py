"""Parameters of adapters by hand; tests/sft/test_plan.py compares them with peft's."""

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.planning.adapters import (
    adapter_parameters,
    linear_widths,
    require_targets,
    targets_of,
)
from mobilellama.pretrain.planning.parameters import parameters_by_part
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.run_record import Adapters

MODEL = ModelConfig(vocab_size=96, d_model=32, n_layers=3, n_heads=4, n_kv_heads=2, d_ff=48)


def adapters(*targets: str) -> Adapters:
    return Adapters(rank=4, alpha=8, dropout=0.0, targets=[*targets] or None)


def test_the_linear_layers_are_those_of_the_model() -> None:
    parts = parameters_by_part(MODEL)
    sizes = [inner * outer for inner, outer in linear_widths(MODEL).values()]
    assert 3 * sum(sizes) == parts["attention"] + parts["mlp"]


def test_a_target_has_two_matrices_of_its_rank() -> None:
    assert adapter_parameters(MODEL, adapters("k_proj")) == 3 * 4 * (32 + 16)
    assert adapter_parameters(MODEL, adapters("k_proj", "down_proj")) == 3 * 4 * (48 + 80)


def test_no_targets_are_all_linear_layers() -> None:
    assert targets_of(adapters()) == tuple(linear_widths(MODEL))


def test_a_target_that_is_none_is_told() -> None:
    with pytest.raises(ConfigError, match=r"lora.targets = q_prj: .* did you mean 'q_proj'"):
        require_targets(adapters("q_prj"))
