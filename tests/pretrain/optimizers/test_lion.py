"""Lion against its formula in float64."""

import torch
from torch import nn

from mobilellama.pretrain.optimizer import parameter_groups, torch_groups
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.optimizers.kind import open_optimizer


def test_three_steps_of_lion_equal_the_formula_in_float64() -> None:
    config = OptimizerConfig(
        kind="lion", learning_rate=0.01, beta1=0.9, beta2=0.99, weight_decay=0.1
    )
    generator = torch.Generator().manual_seed(0)
    matrix = nn.Parameter(torch.randn(3, 4, generator=generator))
    norm = nn.Parameter(torch.ones(4))
    groups = parameter_groups([("matrix", matrix), ("norm", norm)], config)
    lion = open_optimizer(config).build(torch_groups(groups))
    expected = [parameter.detach().double() for parameter in (matrix, norm)]
    averages = [torch.zeros_like(value) for value in expected]
    for _ in range(3):
        for k, (parameter, decay) in enumerate([(matrix, 0.1), (norm, 0.0)]):
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient.clone()
            # Chen et al., algorithm 2: c = b1 m + (1 - b1) g; w -= lr (sign c + decay w);
            # m = b2 m + (1 - b2) g.
            update = (0.9 * averages[k] + 0.1 * gradient.double()).sign()
            expected[k] -= 0.01 * (update + decay * expected[k])
            averages[k] = 0.99 * averages[k] + 0.01 * gradient.double()
        lion.step()
    for parameter, value, average in zip((matrix, norm), expected, averages, strict=True):
        torch.testing.assert_close(parameter.detach().double(), value, rtol=1e-6, atol=1e-7)
        kept = lion.state[parameter]["exp_avg"].double()
        torch.testing.assert_close(kept, average, rtol=1e-6, atol=1e-7)


def test_an_eps_that_lion_does_not_use_is_told() -> None:
    assert open_optimizer(OptimizerConfig(kind="lion", eps=1e-6)).ignored() == [
        "optimizer.eps = 1e-06 has no effect: lion does not use it"
    ]
    assert open_optimizer(OptimizerConfig(kind="lion", beta1=0.8)).ignored() == []
    assert open_optimizer(OptimizerConfig(kind="adamw", eps=1e-6)).ignored() == []
