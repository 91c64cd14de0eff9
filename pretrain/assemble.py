"""From what a stage trains to what does it: engine, state, validation and metrics."""

import logging
from typing import Any

from torch import nn

from mobilellama.distributed import World
from mobilellama.pretrain.build_engine import build_engine
from mobilellama.pretrain.engines.engine import Engine
from mobilellama.pretrain.loop import Attempt, Training
from mobilellama.pretrain.monitoring.loss_watch import LossWatch
from mobilellama.pretrain.monitoring.metrics import Metrics
from mobilellama.pretrain.schedule import change_text, stored_schedule
from mobilellama.pretrain.state import rng
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.loading import freeze, load_first_values, report_changes, restore
from mobilellama.pretrain.state.manifest import Manifest
from mobilellama.pretrain.validate import Validation
from mobilellama.progress import format_count
from mobilellama.run_folder import RunFolder

log = logging.getLogger(__name__)


def assemble(
    job: Training, run: RunFolder, world: World, number: int, checkpoint: Checkpoint | None
) -> Attempt:
    """Build what an attempt needs, with the state of a checkpoint or first values.

    Args:
        job: what trains, on what.
        run: where it is written down.
        world: the processes.
        number: the attempt's.
        checkpoint: the newest one; None where the run begins.
    """
    config, found = job.config, checkpoint and checkpoint.manifest
    engine = start_engine(job, world)
    step, consumed = (found.step, found.consumed) if found else (0, 0)
    rng.seed(config.train.seed, rank=world.rank, step=step)
    max_steps = job.max_steps
    if max_steps is None:
        max_steps = step + job.batches.steps_left(consumed)
    report(job, world, max_steps)
    resolved = resolved_config(job, max_steps)
    if checkpoint:
        resume(job, engine, checkpoint, world.rank, resolved)
        frozen_sha256 = checkpoint.manifest.frozen_sha256
    else:
        frozen_sha256 = start(job, engine, run, world, number)
    validation = Validation(
        config.validation,
        job.heldout,
        micro_batch_size=config.train.micro_batch_size,
        max_steps=max_steps,
        engine=engine,
        world=world,
    )
    counters = found.counters if found else {}
    return Attempt(
        run=run,
        world=world,
        number=number,
        engine=engine,
        max_steps=max_steps,
        watch=LossWatch(config.loss_watch, counters.get("watch"), is_main=world.is_main),
        metrics=metrics_of(job, run, world, number, found, resolved),
        validate=validation,
        config=resolved,
        frozen_sha256=frozen_sha256,
    )


def start_engine(job: Training, world: World) -> Engine:
    """Compile the model's layers where that is asked for, and wrap it in an engine."""
    if job.config.engine.compile and world.device.type == "cuda":
        for layer in job.layers:
            layer.compile()
    return build_engine(
        job.model, job.groups, job.optimizer, job.config, world, resolved_precision(job)
    )


def resolved_precision(job: Training) -> str:
    """Return the precision that a training has, ``auto`` resolved."""
    return job.facts.identity["engine.precision"]


def report(job: Training, world: World, max_steps: int) -> None:
    """Log what trains, on what, and how its learning rates go."""
    train = job.config.train
    log.info(
        "%s, %s, %s on %d x %s; %s of %s a step; %s; %s",
        count_text(job.model), resolved_precision(job), job.config.engine.kind, world.size,
        world.device.type, format_count(train.grad_accum_steps(world.size), "micro-batch"),
        format_count(train.micro_batch_size, "sample"), job.order,
        world.threads.describe("CPU thread"),
    )  # fmt: skip
    if world.is_main:
        unused = job.config.engine.ignored(resolved_precision(job))
        for text in (*job.optimizer.ignored(), *unused):
            log.warning("%s", text)
    for name, peak in job.learning_rates.items():
        rate = name.replace("_", " ").replace("/", " of the ")
        log.info("%s: %s", rate, job.config.schedule.describe(peak, max_steps))


def resolved_config(job: Training, max_steps: int) -> dict[str, Any]:
    """Return the config that checkpoints store: with the run's lengths, which the data decide."""
    lengths = ({"seq_len": job.seq_len} if job.seq_len else {}) | {"steps": max_steps}
    return job.facts.config | {"train": job.facts.config["train"] | lengths}


def start(job: Training, engine: Engine, run: RunFolder, world: World, number: int) -> str | None:
    """Give model and engine first values; return the sha256 of the file of those that are frozen.

    The weights' files are closed: an older .bin file would lie in every rank's memory all along.
    """
    weights = job.weights()
    load_first_values(job.model, engine, weights)
    frozen_sha256 = freeze(job.model, weights, world, run, number)
    weights.close()
    log.info("starting from step 0")
    return frozen_sha256


def resume(
    job: Training, engine: Engine, checkpoint: Checkpoint, rank: int, resolved: dict[str, Any]
) -> None:
    """Give model and engine a checkpoint's state, and log what has changed since it was written."""
    manifest = checkpoint.manifest
    report_changes(manifest.config, resolved)
    before = stored_schedule(manifest.config, step=manifest.step)
    now = (job.config.schedule, resolved["train"]["steps"])
    if text := change_text(before, now, manifest.step):
        log.info("%s", text)
    restore(job.model, engine, checkpoint, rank)


def metrics_of(
    job: Training,
    run: RunFolder,
    world: World,
    number: int,
    found: Manifest | None,
    resolved: dict[str, Any],
) -> Metrics:
    """Return what writes the attempt's metrics, from the step of a checkpoint on."""
    return Metrics(
        job.config.metrics,
        run=run,
        world=world,
        group_names=job.batches.group_names,
        peak_lrs=job.learning_rates,
        seq_len=job.seq_len,
        max_steps=resolved["train"]["steps"],
        flops_per_token=job.flops_per_token,
        resumed_step=found.step if found else 0,
        # Checkpoints of older versions have none.
        resumed_interval=found.counters.get("interval") if found else None,
        attempt=number,
        run_config=resolved,
    )


def count_text(model: nn.Module) -> str:
    """Return the model's parameters, and how many of them train where not all do."""
    total = sum(parameter.numel() for parameter in model.parameters())
    train = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if train == total:
        return f"{total:,} parameters"
    return f"{total:,} parameters, of which {train:,} ({100 * train / total:.2f} %) train"
