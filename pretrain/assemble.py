"""From a config to what the loop trains: dataset, model, engine, metrics, and their state."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mobilellama.config import ConfigError
from mobilellama.distributed import World
from mobilellama.pretrain import rng
from mobilellama.pretrain.checkpoint import Checkpoint
from mobilellama.pretrain.config import Config
from mobilellama.pretrain.data import MixedBatches, WindowInputs
from mobilellama.pretrain.ddp_engine import DDPEngine
from mobilellama.pretrain.deepspeed_engine import DeepSpeedEngine
from mobilellama.pretrain.engine import Engine, EngineConfig, Fragment
from mobilellama.pretrain.loop import Training
from mobilellama.pretrain.loss_watch import LossWatch
from mobilellama.pretrain.metrics import Metrics
from mobilellama.pretrain.model import (
    LanguageModel,
    build_on,
    count_parameters,
    init_parameter,
)
from mobilellama.pretrain.optimizer import OptimizerConfig, parameter_groups
from mobilellama.pretrain.throughput import flops_per_token
from mobilellama.pretrain.validate import Validation
from mobilellama.run_folder import RunFolder
from mobilellama.shards.mixture import Mixture
from mobilellama.shards.order import open_order, shares_text
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.windows import View

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The opened dataset and its order."""

    dataset: TokenDataset
    mixture: Mixture
    views: Mapping[str, View]


def open_data(config: Config) -> TrainingData:
    """Open the dataset and check everything about the config that needs no process.

    Raises:
        ConfigError: dataset, mixture, batch or vocabulary do not fit.
    """
    dataset = TokenDataset(config.data.path, field="data.path")
    if dataset.identity.vocab_size > config.model.vocab_size:
        raise ConfigError(
            "model.vocab_size",
            config.model.vocab_size,
            f"is below the {dataset.identity.vocab_size} pieces of the tokenizer that "
            f"{config.data.path} was made with",
            "Raise it or tokenise with a smaller tokenizer",
        )
    mixture, views = open_order(
        dataset, seq_len=config.train.seq_len, mixture=config.data.mixture, seed=config.data.seed
    )
    samples = sum(mixture.samples)
    if samples < config.train.global_batch_size:
        raise ConfigError(
            "train.global_batch_size",
            config.train.global_batch_size,
            f"exceeds the {samples} samples of {config.train.seq_len} tokens in {config.data.path}",
            "Lower it or train.seq_len, or tokenise more text",
        )
    config.train.grad_accum_steps(config.launch.world_size)
    return TrainingData(dataset=dataset, mixture=mixture, views=views)


def assemble(
    config: Config,
    data: TrainingData,
    world: World,
    run: RunFolder,
    attempt: int,
    precision: str,
    identity: dict[str, Any],
    checkpoint: Checkpoint | None,
) -> Training:
    """Build model, engine, data and metrics, with the state of the checkpoint or a fresh one."""
    model = build_on(
        world.device,
        config.model,
        loss_chunk_tokens=config.train.loss_chunk_tokens,
        gradient_checkpointing=config.train.gradient_checkpointing,
    )
    engine = build_engine(
        model, world, precision, config.engine, config.optimizer, config.train.micro_batch_size
    )
    log.info(
        "%s parameters, %s, %s on %d x %s; %d micro-batches of %d samples a step; mixture %s",
        f"{count_parameters(config.model)[0]:,}", precision, config.engine.kind, world.size,
        world.device.type, config.train.grad_accum_steps(world.size),
        config.train.micro_batch_size, shares_text(data.mixture),
    )  # fmt: skip
    watch_state = None
    if checkpoint:
        restore(engine, checkpoint, world.rank)
        report_changes(checkpoint.manifest.config, asdict(config))
        watch_state = checkpoint.manifest.counters["watch"]
    else:
        initial = partial(init_parameter, config=config.model, seed=config.train.seed)
        engine.load(FirstState(model, initial))
        log.info("starting from step 0")
    inputs = WindowInputs(per_document=config.model.attention == "per_document")
    batches = MixedBatches(
        data.mixture,
        data.views,
        inputs,
        global_batch_size=config.train.global_batch_size,
        micro_batch_size=config.train.micro_batch_size,
        rank=world.rank,
        world_size=world.size,
    )
    validation = Validation(
        config.validation,
        dataset=data.dataset,
        subsets=data.mixture.subsets,
        seq_len=config.train.seq_len,
        micro_batch_size=config.train.micro_batch_size,
        inputs=inputs,
        max_steps=config.train.max_steps,
        engine=engine,
        world=world,
    )
    metrics = Metrics(
        config.metrics,
        run=run,
        world=world,
        group_names=batches.group_names,
        peak_lr=config.optimizer.learning_rate,
        seq_len=config.train.seq_len,
        max_steps=config.train.max_steps,
        flops_per_token=flops_per_token(config.model, config.train.seq_len),
        resumed_step=checkpoint.manifest.step if checkpoint else 0,
    )
    return Training(
        run=run,
        world=world,
        attempt=attempt,
        engine=engine,
        batches=batches,
        workers=config.data.workers,
        global_batch_size=config.train.global_batch_size,
        max_steps=config.train.max_steps,
        schedule=config.schedule,
        checkpoint=config.checkpoint,
        watch=LossWatch(config.loss_watch, watch_state, speaks=world.is_main),
        metrics=metrics,
        validate=validation,
        identity=identity,
        config=asdict(config),
    )


def restore(engine: Engine, checkpoint: Checkpoint, rank: int) -> None:
    """Give engine and random generators the state of a checkpoint, and close it."""
    engine.load(checkpoint)
    if states := checkpoint.rng(rank):
        rng.restore(states)
    checkpoint.close()
    consumed = checkpoint.manifest.consumed
    log.info("resuming from %s, %d samples consumed", checkpoint.folder, consumed)


def build_engine(
    model: LanguageModel,
    world: World,
    precision: str,
    config: EngineConfig,
    optimizer: OptimizerConfig,
    micro_batch_size: int,
) -> Engine:
    """Wrap the model, of which those parameters train that want a gradient, in an engine."""
    if config.compile and world.device.type == "cuda":
        for layer in model.model.layers:
            layer.compile()
    groups = parameter_groups(
        ((name, value) for name, value in model.named_parameters() if value.requires_grad),
        optimizer,
    )
    if config.kind == "ddp":
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
        config=config,
        precision=precision,
        optimizer=optimizer,
        micro_batch_size=micro_batch_size,
        world_size=world.size,
    )


class FirstState:
    """The state before the first step: initial weights, moments of zero."""

    optimizer_step = 0

    def __init__(self, model: LanguageModel, initial: Callable[[str, torch.Size], Tensor]) -> None:
        """Take the weights from a function.

        Args:
            model: whose parameters they are.
            initial: (name, shape) -> the first value, fp32.
        """
        self._shapes = {name: value.shape for name, value in model.named_parameters()}
        self._initial = initial

    def read(self, fragment: Fragment) -> None:
        """Fill a fragment's weight; its moments are zeros already."""
        whole = self._initial(fragment.name, self._shapes[fragment.name])
        piece = slice(fragment.start, fragment.start + fragment.weight.numel())
        fragment.weight.copy_(whole.reshape(-1)[piece])


def report_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Log the fields that this attempt changes; those of the identity were checked before."""
    for section, fields in now.items():
        for name, value in fields.items():
            old = before.get(section, {}).get(name)
            if old != value:
                log.info(
                    "changed since the checkpoint: %s.%s = %s, was %s", section, name, value, old
                )
