"""From a config to what the loop trains: dataset, model, engine, metrics, and their state."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from mobilellama.config import ConfigError
from mobilellama.distributed import World
from mobilellama.pretrain.build_engine import build_engine
from mobilellama.pretrain.config import Config, StageConfig
from mobilellama.pretrain.data import Batches, Inputs, MixedBatches, WindowInputs
from mobilellama.pretrain.hf.start import StartingPoint
from mobilellama.pretrain.loop import Training
from mobilellama.pretrain.model import LanguageModel, build_on, init_parameter
from mobilellama.pretrain.monitoring.loss_watch import LossWatch
from mobilellama.pretrain.monitoring.metrics import Metrics
from mobilellama.pretrain.monitoring.throughput import flops_per_token
from mobilellama.pretrain.optimizer import ParameterGroup, parameter_groups
from mobilellama.pretrain.schedule import change_text, stored_schedule
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state import rng
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.loading import begin, freeze, report_changes, restore
from mobilellama.pretrain.validate import HeldOut, HeldOutViews, Validation
from mobilellama.pretrain.weight_source import DrawnWeights, WeightSource, shapes_of
from mobilellama.run_folder import RunFolder
from mobilellama.run_record import RunRecord
from mobilellama.shards.mixture import Mixture
from mobilellama.shards.order import open_order, shares_text
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.windows import View

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The opened dataset, its order, and what becomes of its samples."""

    dataset: TokenDataset
    mixture: Mixture
    views: Mapping[str, View]
    inputs: Inputs
    """Makes the model's arguments of samples."""
    end: int | None = None
    """Samples of the run, whose last step may be short; None where it ends after whole steps."""

    @property
    def seq_len(self) -> int:
        """Tokens per sample that the model predicts."""
        return self.views[self.mixture.subsets[0]].seq_len


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a stage trains, beside the sections that all stages have."""

    record: RunRecord
    """What the run is, for the checkpoints."""
    model: dict[str, Any]
    """The architecture, for the checkpoints."""
    build: Callable[[torch.device], nn.Module]
    """Makes the model on a device with zeros for weights; those that want a gradient train."""
    layers: Callable[[nn.Module], Iterable[nn.Module]]
    """The parts of it that are compiled, each by itself."""
    weights: Callable[[nn.Module], WeightSource]
    """(the built model) -> the first values of its parameters. Those that train are read in fp32,
    the others in the dtype they come in."""
    batches: Batches
    """This rank's samples."""
    order: str
    """One line on their order, for the log."""
    heldout: HeldOut | None
    """What validation looks at."""
    groups: Callable[[Iterable[tuple[str, nn.Parameter]]], list[ParameterGroup]]
    """Sorts the named parameters that train into groups."""
    learning_rates: dict[str, float]
    """Peak rates by the names that metrics give them."""
    seq_len: int | None
    """Tokens of every sample; None where samples differ."""
    max_steps: int | None = None
    """Optimizer steps of the run; None where the samples say how far it goes."""
    flops_per_token: float | None = None
    """For MFU; None where not every token costs the same, and no MFU is shown."""


def language_stage(
    config: StageConfig,
    model: ModelConfig,
    data: TrainingData,
    world: World,
    *,
    record: RunRecord,
    weights: Callable[[nn.Module], WeightSource],
    adapt: Callable[[LanguageModel], object] | None = None,
) -> Stage:
    """Return the stage that trains a language model on a dataset's samples.

    Args:
        config: the sections that all stages have.
        model: the architecture.
        data: the dataset and its order.
        world: the processes.
        record: what the run is.
        weights: (the built model) -> the first values of its parameters.
        adapt: adds adapters to the model, or freezes parameters of it.
    """
    build = partial(
        build_on,
        config=model,
        loss_chunk_tokens=config.train.loss_chunk_tokens,
        gradient_checkpointing=config.train.gradient_checkpointing,
        adapt=adapt,
    )
    batches = MixedBatches(
        data.mixture,
        data.views,
        data.inputs,
        global_batch_size=config.train.global_batch_size,
        micro_batch_size=config.train.micro_batch_size,
        rank=world.rank,
        world_size=world.size,
        end=data.end,
    )
    subsets = data.mixture.subsets
    return Stage(
        record=record,
        model=asdict(model),
        build=build,
        layers=lambda model: cast(LanguageModel, model).model.layers,
        weights=weights,
        batches=batches,
        order=f"mixture {shares_text(data.mixture)}",
        heldout=HeldOutViews(
            data.dataset, subsets, data.seq_len, data.inputs, is_main=world.is_main
        ),
        groups=partial(parameter_groups, config=config.optimizer),
        learning_rates={"learning_rate": config.optimizer.learning_rate},
        seq_len=data.seq_len,
    )


def open_data(
    config: StageConfig,
    dataset: TokenDataset,
    inputs: Inputs,
    *,
    seq_len: int,
    vocab_size: int,
    mixture: str | None = None,
) -> TrainingData:
    """Open the dataset's order and check all about the config that needs no process.

    Raises:
        ConfigError: mixture, batch or vocabulary do not fit.
    """
    if dataset.identity.vocab_size > vocab_size:
        raise ConfigError(
            "model.vocab_size",
            vocab_size,
            f"is below the {dataset.identity.vocab_size} pieces of the tokenizer that "
            f"{config.data.path} was made with",
            "Take a model with that many rows of embedding, or another tokenizer for the data",
        )
    mixed, views = open_order(dataset, seq_len=seq_len, mixture=mixture, seed=config.data.seed)
    config.train.grad_accum_steps(config.distributed.world_size)
    return TrainingData(dataset=dataset, mixture=mixed, views=views, inputs=inputs)


def open_windows(config: Config) -> TrainingData:
    """Open pretraining's data.

    Raises:
        ConfigError: it is no dataset of text, or does not fit the config.
    """
    dataset = TokenDataset(config.data.path, field="data.path")
    if dataset.identity.packing:
        rule, remedy = "holds packed conversations", "Finetune on it with 'mobilellama sft run'"
        raise ConfigError("data.path", config.data.path, rule, remedy)
    data = open_data(
        config,
        dataset,
        WindowInputs(per_document=config.model.attention == "per_document"),
        seq_len=config.train.seq_len,
        vocab_size=config.model.vocab_size,
        mixture=config.data.mixture,
    )
    num_samples = sum(data.mixture.num_samples)
    if num_samples < config.train.global_batch_size:
        raise ConfigError(
            "train.global_batch_size",
            config.train.global_batch_size,
            f"exceeds the {num_samples} samples of {data.seq_len} tokens in {config.data.path}",
            "Lower it or train.seq_len, or tokenise more text",
        )
    return data


def pretraining(
    config: Config, data: TrainingData, world: World, start: StartingPoint | None = None
) -> Stage:
    """Return what pretraining trains: every weight of a model, on windows of text.

    Args:
        config: of the run.
        data: the windows.
        world: the processes.
        start: what the model starts from; None draws new weights.
    """

    def weights(model: nn.Module) -> WeightSource:
        if start:
            return start.require_weights()
        return new_weights(cast(LanguageModel, model), seed=config.train.seed)

    stage = language_stage(
        config,
        config.model,
        data,
        world,
        record=RunRecord(stage="pretrain", origin=start.origin if start else None),
        weights=weights,
    )
    return replace(
        stage,
        max_steps=config.train.max_steps,
        flops_per_token=flops_per_token(config.model, config.train.seq_len),
    )


def new_weights(model: LanguageModel, *, seed: int) -> WeightSource:
    """Return the first values of a new language model's parameters."""

    def draw(name: str, shape: torch.Size, seed: int) -> Tensor:
        return init_parameter(name, shape, model.config, seed)

    return DrawnWeights(shapes_of(model), draw, seed)


def assemble(
    config: StageConfig,
    stage: Stage,
    world: World,
    attempt: int,
    identity: dict[str, Any],
    checkpoint: Checkpoint | None,
) -> Training:
    """Build model, engine and metrics, with the state of a checkpoint or first values.

    Args:
        config: the sections that all stages have.
        stage: what trains, on what.
        world: the processes.
        attempt: its number.
        identity: what a resume must not change.
        checkpoint: the newest one; None where the run begins.
    """
    run, precision = RunFolder(config.run.folder), identity["engine.precision"]
    model = stage.build(world.device)
    if config.engine.compile and world.device.type == "cuda":
        for layer in stage.layers(model):
            layer.compile()
    named = ((name, value) for name, value in model.named_parameters() if value.requires_grad)
    engine = build_engine(model, stage.groups(named), config, world, precision)
    step, consumed = 0, 0
    if checkpoint:
        step, consumed = checkpoint.manifest.step, checkpoint.manifest.consumed
    rng.seed(config.train.seed, rank=world.rank, step=step)
    log.info(
        "%s, %s, %s on %d x %s; %d micro-batches of %d samples a step; %s; %s",
        count_text(model), precision, config.engine.kind, world.size,
        world.device.type, config.train.grad_accum_steps(world.size),
        config.train.micro_batch_size, stage.order,
        world.threads.describe("CPU thread"),
    )  # fmt: skip
    max_steps = stage.max_steps
    if max_steps is None:
        max_steps = step + stage.batches.steps_left(consumed)
    for name, peak in stage.learning_rates.items():
        rate = name.replace("_", " ").replace("/", " of the ")
        log.info("%s: %s", rate, config.schedule.describe(peak, max_steps))
    resolved = asdict(config) | {"model": stage.model}
    resolved["train"] |= {"seq_len": stage.seq_len} if stage.seq_len else {}
    resolved["train"] |= {"steps": max_steps}
    watch_state = None
    if checkpoint:
        watch_state = checkpoint.manifest.counters["watch"]
        frozen_sha256 = checkpoint.manifest.frozen_sha256
        report_changes(checkpoint.manifest.config, resolved)
        before = stored_schedule(checkpoint.manifest.config, step=step)
        if text := change_text(before, (config.schedule, max_steps), step):
            log.info("%s", text)
        restore(model, engine, checkpoint, world.rank)
    else:
        weights = stage.weights(model)
        begin(model, engine, weights)
        frozen_sha256 = freeze(model, weights, world, run, attempt)
        log.info("starting from step 0")
    validation = Validation(
        config.validation,
        stage.heldout,
        micro_batch_size=config.train.micro_batch_size,
        max_steps=max_steps,
        engine=engine,
        world=world,
    )
    metrics = Metrics(
        config.metrics,
        run=run,
        world=world,
        group_names=stage.batches.group_names,
        peak_lrs=stage.learning_rates,
        seq_len=stage.seq_len,
        max_steps=max_steps,
        flops_per_token=stage.flops_per_token,
        resumed_step=step,
        attempt=attempt,
        run_config=resolved,
    )
    return Training(
        run=run,
        world=world,
        attempt=attempt,
        engine=engine,
        batches=stage.batches,
        workers=config.data.workers,
        max_steps=max_steps,
        schedule=config.schedule,
        checkpoint=config.checkpoint,
        watch=LossWatch(config.loss_watch, watch_state, is_main=world.is_main),
        metrics=metrics,
        validate=validation,
        identity=identity,
        record=stage.record,
        config=resolved,
        frozen_sha256=frozen_sha256,
    )


def count_text(model: nn.Module) -> str:
    """Return the model's parameters, and how many of them train where not all do."""
    total = sum(parameter.numel() for parameter in model.parameters())
    train = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if train == total:
        return f"{total:,} parameters"
    return f"{total:,} parameters, of which {train:,} ({100 * train / total:.2f} %) train"
