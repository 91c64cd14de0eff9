"""Ranks whose gradients are of other parameters, or in another order, are found before the step."""

from typing import Any

import torch
from torch import Tensor, nn

from mobilellama.distributed import World
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.engines.deepspeed import DeepSpeedEngine
from mobilellama.pretrain.engines.engine import Fragment
from mobilellama.pretrain.engines.gradient_order import GradientOrderError
from mobilellama.pretrain.model import LossSums
from mobilellama.pretrain.optimizer import parameter_groups
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.optimizers.kind import open_optimizer
from tests.helpers.ranks import run_ranks

OPTIMIZER = OptimizerConfig(learning_rate=1e-2)


class TwoWays(nn.Module):
    """Goes through two layers, in an order that the input decides, or through one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor, way: str) -> LossSums:
        ways = {"straight": (self.first, self.second), "swapped": (self.second, self.first),
                "short": (self.first,)}  # fmt: skip
        for layer in ways[way]:
            x = layer(x)
        losses = x.square().sum(dim=1)
        return LossSums(losses.sum(), losses.detach(), torch.ones(len(x)))


class Zeros:
    optimizer_step = 0

    def read(self, fragment: Fragment) -> None:
        fragment.weight.copy_(torch.full_like(fragment.weight, 0.5))


def take_steps(zero: int, ways: list[list[str]]) -> list[str]:
    """Take a step for each list of the ranks' ways; return what each said."""
    torch.set_num_threads(1)
    world = World(DistributedConfig(accelerator="cpu", threads=1))
    model = TwoWays()
    engine = DeepSpeedEngine(
        model, parameter_groups(model.named_parameters(), OPTIMIZER),
        config=EngineConfig(zero_stage=2 if zero == 2 else 1), precision="fp32",
        optimizer=open_optimizer(OPTIMIZER), micro_batch_size=1, world_size=world.size,
    )  # fmt: skip
    engine.load(Zeros())
    said = []
    for each in ways:
        before = [fragment.weight.clone() for fragment in engine.fragments()]
        given: dict[str, Any] = {"x": torch.ones(1, 4), "way": each[world.rank]}
        try:
            engine.backward(engine.forward(given, last=True).loss_sum)
            engine.step(1.0)
            said.append("")
        except GradientOrderError as error:
            said.append(str(error))
        after = [fragment.weight for fragment in engine.fragments()]
        assert all(map(torch.equal, before, after)) == bool(said[-1])
    return said


SAME, SWAPPED, SHORT = ["straight"] * 2, ["straight", "swapped"], ["straight", "short"]


def test_another_order_is_an_error_under_zero_2_that_names_both_parameters() -> None:
    for said in run_ranks(take_steps, 2, 2, [SAME, ["swapped"] * 2, SWAPPED]):
        assert said[:2] == ["", ""]
        assert said[2] == (
            "rank 0 and rank 1 did not make the same gradients in the same order: the first "
            "difference is 'second.weight' on rank 0 and 'first.weight' on rank 1. ZeRO would "
            "add gradients of different parameters, so the step was not applied. The backward "
            "pass of this model depends on its input: train it with --engine.kind ddp"
        )


def test_a_gradient_that_is_missing_on_one_rank_is_an_error_before_anything_is_added() -> None:
    """Without the check, gloo would abort: the ranks' buckets are of two sizes."""
    for said in run_ranks(take_steps, 2, 2, [SAME, SHORT]):
        assert said[0] == ""
        assert "'second.weight' on rank 0 and " in said[1]
        assert said[1].endswith("train it on one process")


def test_under_zero_1_the_order_is_all_one_but_a_missing_gradient_is_an_error() -> None:
    """It takes the gradients in the order of the parameters, those that are there."""
    for said in run_ranks(take_steps, 2, 1, [SAME, SWAPPED, SHORT]):
        assert said[:2] == ["", ""]
        assert "the first difference is 'second.weight' on rank 0 and none on rank 1" in said[2]
