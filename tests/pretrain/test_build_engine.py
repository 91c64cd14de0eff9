"""The engine that a config names."""

import pytest
import torch

from mobilellama.distributed import World
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain.build_engine import build_engine
from mobilellama.pretrain.config import Config, RunConfig
from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.engines.ddp import DDPEngine
from mobilellama.pretrain.model import LanguageModel
from mobilellama.pretrain.optimizer import parameter_groups
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.optimizers.kind import open_optimizer
from mobilellama.pretrain.sections import MixtureConfig
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.engine_steps import MODEL


def config_of(engine: EngineConfig) -> Config:
    return Config(
        run=RunConfig(folder="unused"),
        data=MixtureConfig(path="unused"),
        optimizer=OptimizerConfig(learning_rate=0.5),
        engine=engine,
    )


def test_ddp_takes_the_configs_optimizer_and_the_worlds_rank(world: World) -> None:
    model = LanguageModel(MODEL)
    config = config_of(EngineConfig(kind="ddp"))
    groups = parameter_groups(model.named_parameters(), config.optimizer)
    optimizer = open_optimizer(config.optimizer)
    engine = build_engine(model, groups, optimizer, config, world, "fp32")
    assert isinstance(engine, DDPEngine)
    names = [name for name, _ in model.named_parameters()]
    loss = engine.forward(
        {"input_ids": torch.zeros(1, 4, dtype=torch.long), "labels": torch.ones(1, 4).long()},
        last=True,
    ).loss_sum
    engine.backward(loss)
    assert engine.step(1.0).applied
    assert [fragment.name for fragment in engine.fragments()] == names  # one rank owns them all


def kind_and_owned(kind: str, zero_stage: int) -> tuple[str, int]:
    world = World(DistributedConfig(accelerator="cpu", threads=1))
    model = LanguageModel(MODEL)
    config = config_of(EngineConfig(kind=kind, zero_stage=zero_stage))  # pyright: ignore[reportArgumentType]
    groups = parameter_groups(model.named_parameters(), config.optimizer)
    optimizer = open_optimizer(config.optimizer)
    engine = build_engine(model, groups, optimizer, config, world, "bf16")

    class Nothing:
        optimizer_step = 0

        def read(self, fragment: object) -> None:
            """Leave zeros."""

    engine.load(Nothing())
    return type(engine).__name__, sum(len(fragment.weight) for fragment in engine.fragments())


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2])
def test_deepspeed_parts_the_state_among_its_ranks(zero_stage: int) -> None:
    results = run_ranks(kind_and_owned, 2, "deepspeed", zero_stage)
    assert [name for name, _ in results] == ["DeepSpeedEngine"] * 2
    parameters = sum(parameter.numel() for parameter in LanguageModel(MODEL).parameters())
    assert sum(owned for _, owned in results) == parameters
    assert all(0 < owned < parameters for _, owned in results)
