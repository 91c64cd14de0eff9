"""Every optimizer of the table keeps the contract in kind.py; one that is added is tested too."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobilellama.pretrain.optimizer import ParameterGroup, torch_groups
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.optimizers.kind import OptimizerKind, open_optimizer
from mobilellama.pretrain.optimizers.table import OPTIMIZERS

RATE = 1e-2
SHAPES = [(3, 4), (5,), (2, 6)]
FLAT = sum(torch.Size(shape).numel() for shape in SHAPES)


@pytest.fixture(params=OPTIMIZERS)
def optimizer(request: pytest.FixtureRequest) -> OptimizerKind:
    return open_optimizer(OptimizerConfig(kind=request.param))


def groups_of(parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    return torch_groups([ParameterGroup("all", tuple(parameters), RATE, 0.1)])


def begin(
    optimizer: OptimizerKind, values: Sequence[Tensor], steps: int = 0
) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    """Build it around parameters with the state that an engine gives them."""
    parameters = [nn.Parameter(value.clone()) for value in values]
    built = optimizer.build(groups_of(parameters))
    for parameter in parameters:
        built.state[parameter] = optimizer.first_state(parameter.detach(), steps)
    return parameters, built


def take_steps(
    parameters: Sequence[nn.Parameter], built: torch.optim.Optimizer, gradients: Iterator[Tensor]
) -> None:
    """Take a step for each flat gradient, shared out over the parameters in their order."""
    sizes = [parameter.numel() for parameter in parameters]
    for flat in gradients:
        for parameter, part in zip(parameters, flat.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter).clone()
        built.step()


def drawn(seed: int, count: int = 1) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(FLAT, generator=generator) for _ in range(count))


def shaped(flat: Tensor) -> list[Tensor]:
    sizes = [torch.Size(shape).numel() for shape in SHAPES]
    return [part.view(shape) for part, shape in zip(flat.split(sizes), SHAPES, strict=True)]


def joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def test_its_state_has_names_that_a_checkpoint_can_store(optimizer: OptimizerKind) -> None:
    names = optimizer.state_names
    assert len({*names}) == len(names) and "weight" not in names
    assert not any(":" in name for name in names)


def test_the_first_step_makes_the_state_that_engines_make_before_it(
    optimizer: OptimizerKind,
) -> None:
    """Else a run that begins would not be the run that the optimizer's authors describe."""
    (first,) = drawn(0)
    parameters, ours = begin(optimizer, shaped(first))
    theirs_of = [nn.Parameter(value.clone()) for value in shaped(first)]
    theirs = optimizer.build(groups_of(theirs_of))
    take_steps(parameters, ours, drawn(1))
    take_steps(theirs_of, theirs, drawn(1))
    for parameter, its in zip(parameters, theirs_of, strict=True):
        assert torch.equal(parameter, its)
        assert ours.state[parameter].keys() == theirs.state[its].keys() >= {*optimizer.state_names}
        for name, value in theirs.state[its].items():
            assert torch.equal(ours.state[parameter][name], value), name
        for name in optimizer.state_names:
            named = theirs.state[its][name]
            assert (named.shape, named.dtype) == (parameter.shape, torch.float32), name


def test_a_flat_cut_anywhere_takes_the_same_steps(optimizer: OptimizerKind) -> None:
    """ZeRO gives it partitions that begin and end within parameters."""
    (first,) = drawn(0)
    whole, steps_whole = begin(optimizer, shaped(first))
    cut, steps_cut = begin(optimizer, first.split([7, FLAT - 7]))
    take_steps(whole, steps_whole, drawn(1, 3))
    take_steps(cut, steps_cut, drawn(1, 3))
    torch.testing.assert_close(joined(cut), joined(whole), rtol=1e-6, atol=1e-7)
    for name in optimizer.state_names:
        ours = joined([steps_cut.state[parameter][name] for parameter in cut])
        theirs = joined([steps_whole.state[parameter][name] for parameter in whole])
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7, msg=name)


def test_the_named_state_and_the_number_of_steps_are_all_that_a_resume_needs(
    optimizer: OptimizerKind,
) -> None:
    (first,) = drawn(0)
    whole, steps = begin(optimizer, shaped(first))
    take_steps(whole, steps, drawn(1, 3))
    resumed, again = begin(optimizer, whole, steps=3)
    for ours, theirs in zip(resumed, whole, strict=True):
        for name in optimizer.state_names:
            again.state[ours][name].copy_(steps.state[theirs][name])
    take_steps(whole, steps, drawn(2, 3))
    take_steps(resumed, again, drawn(2, 3))
    assert torch.equal(joined(resumed), joined(whole))


def test_it_steps_at_the_rate_that_the_schedule_sets(optimizer: OptimizerKind) -> None:
    (first,) = drawn(0)
    parameters, built = begin(optimizer, shaped(first))
    for group in built.param_groups:
        group["lr"] = 0.0
    take_steps(parameters, built, drawn(1))
    assert torch.equal(joined(parameters), first)
