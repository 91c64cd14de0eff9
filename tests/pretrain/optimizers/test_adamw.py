"""AdamW against its formula in float64."""

import torch
from torch import nn

from mobilellama.pretrain.optimizer import parameter_groups, torch_groups
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.optimizers.kind import open_optimizer


def test_two_steps_of_adamw_equal_the_formula_in_float64() -> None:
    config = OptimizerConfig(learning_rate=0.01, beta1=0.9, beta2=0.95, eps=1e-3, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    matrix = nn.Parameter(torch.randn(3, 4, generator=generator))
    norm = nn.Parameter(torch.ones(4))
    groups = parameter_groups([("matrix", matrix), ("norm", norm)], config)
    adamw = open_optimizer(config).build(torch_groups(groups))
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
