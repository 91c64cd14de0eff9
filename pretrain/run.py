"""Train a language model on bucket files.

    mobilellama pretrain run --config demo --data.path DATASET --run.folder RUN
    torchrun --nproc_per_node 8 -m mobilellama pretrain run --config mobilellama_1_4b ...

--config takes a YAML file or a preset's name; any field can be overruled on the command line.
The same command resumes: it goes on from the newest whole checkpoint in the run's folder, on
however many processes. Ctrl-C, SIGTERM or the file RUN/stop save and leave; a second Ctrl-C
leaves at once. What happened is in RUN/verdict.json: finished, stopped or failed.
"""

import logging
import shutil
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import yaml

from mobilellama import __version__
from mobilellama import log as logs
from mobilellama.config import ConfigError, UserError
from mobilellama.distributed import LaunchConfig, World, close
from mobilellama.files import whole_file
from mobilellama.pretrain import rng
from mobilellama.pretrain.checkpoint import Checkpoint, open_newest
from mobilellama.pretrain.data import DataConfig, PretrainBatches
from mobilellama.pretrain.ddp_engine import DDPEngine
from mobilellama.pretrain.deepspeed_engine import DeepSpeedEngine
from mobilellama.pretrain.engine import Engine, EngineConfig, Fragment, resolve_precision
from mobilellama.pretrain.loop import CheckpointConfig, Position, TrainConfig, Training, train
from mobilellama.pretrain.loss_watch import LossWatch, LossWatchConfig
from mobilellama.pretrain.metrics import Metrics, MetricsConfig
from mobilellama.pretrain.model import (
    LanguageModel,
    ModelConfig,
    build_on,
    count_parameters,
    init_parameter,
)
from mobilellama.pretrain.optimizer import OptimizerConfig, parameter_groups
from mobilellama.pretrain.schedule import ScheduleConfig
from mobilellama.pretrain.stop import StopRequest
from mobilellama.pretrain.throughput import flops_per_token
from mobilellama.pretrain.validate import Validation, ValidationConfig
from mobilellama.run_folder import RunFolder, Verdict
from mobilellama.shards.mixture import Mixture
from mobilellama.shards.order import open_order, shares_text
from mobilellama.shards.reader import TokenDataset, Windows
from mobilellama.shards.verify import bucket_names, verify_dataset

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run lives."""

    folder: str
    """The run's folder; one that has checkpoints is resumed."""
    max_hours: float | None = None
    """Save and stop after so many hours; None is no limit."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Pretraining."""

    run: RunConfig
    """Where the run lives."""
    data: DataConfig
    """Which samples, in which order."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The architecture."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Batch, length and how far."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning rate over the steps."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """What optimises, and in which precision."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When to save, and what to keep."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Loss on held-out documents."""
    loss_watch: LossWatchConfig = field(default_factory=LossWatchConfig)
    """Spikes and skipped steps."""
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    """What is written, how often."""
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    """Where the processes are."""

    def __post_init__(self) -> None:
        if self.train.seq_len > self.model.max_seq_len:
            raise ConfigError(
                "train.seq_len",
                self.train.seq_len,
                f"must not exceed model.max_seq_len = {self.model.max_seq_len}",
                "Lower it or raise model.max_seq_len",
            )


@dataclass(frozen=True, kw_only=True)
class Data:
    """The opened dataset and its order."""

    dataset: TokenDataset
    mixture: Mixture
    windows: dict[str, Windows]


def main(config: Config) -> int:
    """Check, start the processes, train, and leave a verdict."""
    logs.configure(rank=logs.rank_from_environment())
    data = open_data(config)  # before any process is started, so that mistakes are told once
    world = World(config.launch)
    logs.configure(rank=world.rank)
    try:
        pretrain(config, data, world)
    finally:
        close()
    return 0


def open_data(config: Config) -> Data:
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
    mixture, windows = open_order(
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
    return Data(dataset=dataset, mixture=mixture, windows=windows)


def identity_of(config: Config, data: Data, precision: str) -> dict[str, Any]:
    """Return the fields that define the run, which a resume must not change."""
    return {
        **{f"model.{name}": value for name, value in asdict(config.model).items()},
        "train.seq_len": config.train.seq_len,
        "train.global_batch_size": config.train.global_batch_size,
        "engine.precision": precision,
        "data.seed": config.data.seed,
        "data.fingerprint": data.dataset.fingerprint,
        # Last: it follows from other fields where no mixture is given.
        "data.mixture": data.mixture.identity(),
    }


def require_same_identity(checkpoint: Checkpoint, identity: dict[str, Any]) -> None:
    """Raise ConfigError naming the first field that differs from the checkpoint's."""
    for name, value in identity.items():
        before = checkpoint.manifest.identity.get(name)
        if before != value:
            raise ConfigError(
                name,
                value,
                f"{checkpoint.folder} was made with {before}",
                "Use that, or another run.folder",
            )


def pretrain(config: Config, data: Data, world: World) -> None:
    """Run one attempt on every process, from the newest checkpoint to its verdict."""
    run = RunFolder(config.run.folder)
    precision = resolve_precision(config.engine.precision, world.device)
    identity = identity_of(config, data, precision)
    attempt = begin(run, world, config, data, identity)
    step = 0
    try:
        if config.data.verify:
            log.info("checking the sha256 of every bucket of %s", data.dataset.folder)
            verify_share(data.dataset, world)
        checkpoint = open_newest(run, world, attempt=attempt)
        if checkpoint:
            require_same_identity(checkpoint, identity)
            step = checkpoint.manifest.step
        job, position = assemble(config, data, world, run, attempt, precision, identity, checkpoint)
        stop = StopRequest(
            stop_file=run.stop if world.is_main else None, max_hours=config.run.max_hours
        )
        with stop.handling_signals():
            reason = train(job, position, stop)
        job.metrics.close()
        step = position.step
    except UserError as error:
        if world.is_main:
            run.write_verdict(
                Verdict(kind="failed", message=str(error), attempt=attempt, step=step)
            )
        raise
    if world.is_main:
        kind = "stopped" if reason else "finished"
        message = f"{kind} at step {step}" + (f": {reason}" if reason else "")
        run.write_verdict(Verdict(kind=kind, message=message, attempt=attempt, step=step))
        log.info("%s; run folder %s", message, run.path)
        if reason:
            log.info("the same command goes on from here")


def begin(
    run: RunFolder, world: World, config: Config, data: Data, identity: dict[str, Any]
) -> int:
    """Make the run's folder and this attempt on rank 0; return the attempt's number."""
    number = 0

    def make() -> None:
        nonlocal number
        run.create()
        number = run.begin_attempt(
            {
                "version": __version__,
                "argv": sys.argv[1:],
                "world_size": world.size,
                "device": str(world.device),
                "torch": torch.__version__,
                "identity": identity,
            }
        )
        run.stop.unlink(missing_ok=True)  # a former attempt's
        run.remove_leftovers()
        shutil.copyfile(data.dataset.tokenizer.path, run.tokenizer)
        with whole_file(run.config) as file:
            file.write(yaml.safe_dump(asdict(config), sort_keys=False).encode())

    world.run_on_main(make)
    return world.broadcast(number)


def verify_share(dataset: TokenDataset, world: World) -> None:
    """Check this rank's share of the buckets; fail on every rank if one is bad."""
    problem: UserError | None = None
    try:
        verify_dataset(dataset, workers=1, buckets=bucket_names(dataset)[world.rank :: world.size])
    except UserError as error:
        problem = error
    bad = world.any(problem is not None)
    if problem:
        raise problem
    if bad:
        raise UserError(f"{dataset.folder}: another rank found a bad bucket; see its message")


def assemble(
    config: Config,
    data: Data,
    world: World,
    run: RunFolder,
    attempt: int,
    precision: str,
    identity: dict[str, Any],
    checkpoint: Checkpoint | None,
) -> tuple[Training, Position]:
    """Build model, engine and data, with the state of the checkpoint or a fresh one."""
    model = build_on(world.device, config.model, loss_chunk_tokens=config.train.loss_chunk_tokens)
    if config.engine.compile and world.device.type == "cuda":
        for layer in model.model.layers:
            layer.compile()
    engine = build_engine(model, config, world, precision)
    position = Position()
    if checkpoint:
        engine.load(checkpoint)
        manifest = checkpoint.manifest
        position = Position(step=manifest.step, consumed=manifest.consumed)
        if states := checkpoint.rng(world.rank):
            rng.restore(states)
        log.info("resuming from %s, %d samples consumed", checkpoint.folder, position.consumed)
        report_changes(manifest.config, asdict(config))
        checkpoint.close()
    else:
        engine.load(FirstState(model, config.model, config.train.seed))
        log.info("starting from step 0")
    parameters, _ = count_parameters(config.model)
    log.info(
        "%s parameters, %s, %s on %d x %s; %d micro-batches of %d samples a step; mixture %s",
        f"{parameters:,}", precision, config.engine.kind, world.size, world.device.type,
        config.train.grad_accum_steps(world.size), config.train.micro_batch_size,
        shares_text(data.mixture),
    )  # fmt: skip
    per_document = config.model.attention == "per_document"
    watch_state = checkpoint.manifest.counters["watch"] if checkpoint else None
    batches = PretrainBatches(
        data.mixture,
        data.windows,
        global_batch_size=config.train.global_batch_size,
        micro_batch_size=config.train.micro_batch_size,
        rank=world.rank,
        world_size=world.size,
        per_document=per_document,
    )
    validation = Validation(
        config.validation,
        dataset=data.dataset,
        subsets=data.mixture.subsets,
        seq_len=config.train.seq_len,
        micro_batch_size=config.train.micro_batch_size,
        per_document=per_document,
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
        resumed_step=position.step,
    )
    job = Training(
        run=run,
        world=world,
        attempt=attempt,
        engine=engine,
        batches=batches,
        workers=config.data.workers,
        train=config.train,
        schedule=config.schedule,
        checkpoint=config.checkpoint,
        watch=LossWatch(config.loss_watch, watch_state),
        metrics=metrics,
        validate=validation,
        identity=identity,
        config=asdict(config),
    )
    return job, position


def build_engine(model: LanguageModel, config: Config, world: World, precision: str) -> Engine:
    """Wrap the model in the engine that the config names."""
    groups = parameter_groups(model.named_parameters(), config.optimizer)
    if config.engine.kind == "ddp":
        return DDPEngine(
            model,
            groups,
            precision=precision,
            optimizer=config.optimizer,
            rank=world.rank,
            world_size=world.size,
        )
    return DeepSpeedEngine(
        model,
        groups,
        config=config.engine,
        precision=precision,
        optimizer=config.optimizer,
        micro_batch_size=config.train.micro_batch_size,
        world_size=world.size,
    )


class FirstState:
    """The state before the first step: initial weights, moments of zero."""

    optimizer_step = 0

    def __init__(self, model: LanguageModel, config: ModelConfig, seed: int) -> None:
        self._shapes = {name: value.shape for name, value in model.named_parameters()}
        self._config, self._seed = config, seed

    def read(self, fragment: Fragment) -> None:
        """Fill a fragment's weight; its moments are zeros already."""
        whole = init_parameter(fragment.name, self._shapes[fragment.name], self._config, self._seed)
        piece = slice(fragment.start, fragment.start + fragment.weight.numel())
        fragment.weight.copy_(whole.view(-1)[piece])


def report_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Log the fields that this attempt changes; those of the identity were checked before."""
    for section, fields in now.items():
        for name, value in fields.items():
            old = before.get(section, {}).get(name)
            if old != value:
                log.info(
                    "changed since the checkpoint: %s.%s = %s, was %s", section, name, value, old
                )
