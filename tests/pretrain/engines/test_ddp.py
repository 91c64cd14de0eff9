"""What is told of plain data parallelism alone; what both engines do is in test_engines.py."""

import pytest
import torch

from mobilellama.distributed import World
from mobilellama.pretrain.engines.ddp import DDPEngine
from mobilellama.pretrain.engines.engine import Fragment
from mobilellama.pretrain.model import LanguageModel
from mobilellama.pretrain.optimizer import parameter_groups
from mobilellama.pretrain.optimizers.kind import open_optimizer
from tests.pretrain.helpers.engine_steps import MODEL, OPTIMIZER, batch_of


def engine_of(model: LanguageModel, *, rank: int = 0, world_size: int = 1) -> DDPEngine:
    groups = parameter_groups(model.named_parameters(), OPTIMIZER)
    return DDPEngine(
        model,
        groups,
        precision="fp32",
        optimizer=open_optimizer(OPTIMIZER),
        rank=rank,
        world_size=world_size,
    )


class Numbered:
    """A state that says of each element what it is."""

    optimizer_step = 5

    def read(self, fragment: Fragment) -> None:
        fragment.weight.copy_(torch.linspace(-0.1, 0.1, len(fragment.weight)))
        for moment, value in zip(fragment.state.values(), (2.0, 3.0), strict=True):
            moment.fill_(value)


def test_every_parameter_has_one_owner_and_is_one_fragment(world: World) -> None:
    names = [name for name, _ in LanguageModel(MODEL).named_parameters()]
    owned: list[str] = []
    for rank in range(3):
        engine = engine_of(LanguageModel(MODEL), rank=rank, world_size=3)
        engine.load(Numbered())
        fragments = list(engine.fragments())
        assert [fragment.name for fragment in fragments] == names[rank::3]
        assert {fragment.start for fragment in fragments} == {0}
        owned += [fragment.name for fragment in fragments]
    assert sorted(owned) == sorted(names)


def test_a_state_is_loaded_into_weights_and_moments_and_its_steps_count(world: World) -> None:
    model = LanguageModel(MODEL)
    engine = engine_of(model)
    engine.load(Numbered())
    assert engine.optimizer_step == 5
    for fragment, parameter in zip(engine.fragments(), model.parameters(), strict=True):
        assert torch.equal(fragment.weight, torch.linspace(-0.1, 0.1, parameter.numel()))
        assert fragment.weight.data_ptr() == parameter.data_ptr()  # a view, and no copy
        assert [set(moment.tolist()) for moment in fragment.state.values()] == [{2.0}, {3.0}]


def test_the_loss_counts_as_often_as_there_are_ranks_since_ddp_averages(world: World) -> None:
    """Of two ranks this process is one: its gradient, averaged over both, is the sum's half."""
    ids, labels = batch_of(0)
    norms = []
    for world_size in (1, 2):
        model = LanguageModel(MODEL)
        engine = engine_of(model, world_size=world_size)
        engine.load(Numbered())
        sums = engine.forward({"input_ids": ids, "labels": labels}, last=True)
        engine.backward(sums.loss_sum / int((labels != -100).sum()))
        norms.append(engine.step(0.0).grad_norm)
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-5)


def test_a_factor_of_nothing_leaves_the_weights_and_switching_modes_reaches_the_model(
    world: World,
) -> None:
    model = LanguageModel(MODEL)
    engine = engine_of(model)
    engine.load(Numbered())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    ids, labels = batch_of(0)
    engine.backward(engine.forward({"input_ids": ids, "labels": labels}, last=True).loss_sum)
    report = engine.step(0.0)
    assert report.applied and engine.optimizer_step == 6
    assert all(map(torch.equal, before, model.parameters()))
    engine.train(False)
    assert not model.training
    engine.train(True)
    assert model.training
