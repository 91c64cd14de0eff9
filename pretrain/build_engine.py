"""The engine that a config names, around a model."""

from torch import nn

from mobilellama.distributed import World
from mobilellama.pretrain.config import StageConfig
from mobilellama.pretrain.engines.ddp import DDPEngine
from mobilellama.pretrain.engines.deepspeed import DeepSpeedEngine
from mobilellama.pretrain.engines.engine import Engine
from mobilellama.pretrain.optimizer import ParameterGroup
from mobilellama.pretrain.optimizers.kind import OptimizerKind


def build_engine(
    model: nn.Module,
    groups: list[ParameterGroup],
    optimizer: OptimizerKind,
    config: StageConfig,
    world: World,
    precision: str,
) -> Engine:
    """Wrap the model, of which the groups' parameters train, in an engine."""
    if config.engine.kind == "ddp":
        return DDPEngine(
            model,
            groups,
            precision=precision,
            optimizer=optimizer,
            rank=world.rank,
            world_size=world.size,
        )
    return DeepSpeedEngine(
        model,
        groups,
        config=config.engine,
        precision=precision,
        optimizer=optimizer,
        micro_batch_size=config.train.micro_batch_size,
        world_size=world.size,
    )
