"""Parameter groups, and AdamW against its formula in float64."""

import math

import pytest
import torch
from torch import nn

from mobilellama.config import ConfigError
from mobilellama.pretrain.model import LanguageModel
from mobilellama.pretrain.optimizer import build_adamw, parameter_groups
from mobilellama.pretrain.sections import ModelConfig, OptimizerConfig

TINY = ModelConfig(vocab_size=40, d_model=16, n_layers=2, n_heads=2, d_ff=24, max_seq_len=32)


def test_every_parameter_is_in_one_group_and_norms_alone_do_not_decay() -> None:
    with torch.device("meta"):
        model = LanguageModel(TINY)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {g.name: g for g in parameter_groups(model.named_parameters(), OptimizerConfig())}
    grouped = [names[id(p)] for group in groups.values() for p in group.parameters]
    assert sorted(grouped) == sorted(names.values())
    assert {names[id(p)] for p in groups["norms"].parameters} == {
        "model.norm.weight",
        *(
            f"model.layers.{layer}.{norm}.weight"
            for layer in range(2)
            for norm in ("input_layernorm", "post_attention_layernorm")
        ),
    }
    assert (groups["norms"].weight_decay, groups["matrices"].weight_decay) == (0.0, 0.1)
    assert groups["norms"].learning_rate == groups["matrices"].learning_rate == 3e-4


def test_two_steps_of_adamw_equal_the_formula_in_float64() -> None:
    config = OptimizerConfig(learning_rate=0.01, beta1=0.9, beta2=0.95, eps=1e-3, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    matrix = nn.Parameter(torch.randn(3, 4, generator=generator))
    norm = nn.Parameter(torch.ones(4))
    adamw = build_adamw(parameter_groups([("matrix", matrix), ("norm", norm)], config), config)
    expected = [parameter.detach().double() for parameter in (matrix, norm)]
    moments = [[torch.zeros_like(value), torch.zeros_like(value)] for value in expected]
    for step in (1, 2):
        for k, (parameter, decay) in enumerate([(matrix, 0.1), (norm, 0.0)]):
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient.clone()
            # Loshchilov and Hutter, algorithm 2, decay as in torch: by lr * decay * weight.
            first, second = moments[k]
            first.mul_(0.9).add_(0.1 * gradient.double())
            second.mul_(0.95).add_(0.05 * gradient.double() ** 2)
            expected[k] *= 1 - 0.01 * decay
            corrected = first / (1 - 0.9**step)
            root = (second / (1 - 0.95**step)).sqrt()
            expected[k] -= 0.01 * corrected / (root + 1e-3)
        adamw.step()
    for parameter, value in zip((matrix, norm), expected, strict=True):
        torch.testing.assert_close(parameter.detach().double(), value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("learning_rate", 0.0, "must be above 0"),
        ("learning_rate", math.nan, "must be above 0"),
        ("max_grad_norm", -1.0, "must be above 0"),
        ("eps", 0.0, "must be above 0"),
        ("beta1", 1.0, "must be at least 0 and below 1"),
        ("beta2", -0.1, "must be at least 0 and below 1"),
        ("weight_decay", -0.1, "must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: float, rule: str) -> None:
    with pytest.raises(ConfigError, match=f"optimizer.{field} = {value}: {rule}"):
        OptimizerConfig(**{field: value})
