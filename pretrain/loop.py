"""The training loop. It knows no stage: data, model and groups come from outside.

One step: fetch, forward and backward for each micro-batch, step the optimizer, add up losses
and stop flags over all ranks in one reduction, log, validate, checkpoint.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mobilellama.distributed import World
from mobilellama.pretrain.data import Batches
from mobilellama.pretrain.engines.engine import Engine
from mobilellama.pretrain.monitoring.loss_watch import LossWatch
from mobilellama.pretrain.monitoring.metrics import Metrics
from mobilellama.pretrain.monitoring.tally import Tally
from mobilellama.pretrain.monitoring.watchdog import Watchdog
from mobilellama.pretrain.prefetch import Prefetcher
from mobilellama.pretrain.schedule import ScheduleConfig
from mobilellama.pretrain.state import checkpoint
from mobilellama.pretrain.stop import SAVING, StopRequest
from mobilellama.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass
class Position:
    """How far a run is."""

    step: int = 0
    """Optimizer steps taken, skipped ones included."""
    consumed: int = 0
    """Samples consumed: the data position."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything a stage gives to the loop."""

    run: RunFolder
    world: World
    attempt: int
    engine: Engine
    batches: Batches
    workers: int
    """Threads that read batches ahead."""
    max_steps: int
    """Optimizer steps of the whole run."""
    schedule: ScheduleConfig
    checkpoint: checkpoint.CheckpointConfig
    watch: LossWatch
    metrics: Metrics
    validate: Callable[[int, Callable[[], bool]], Mapping[str, float]]
    """(step, whether to go on) -> named losses, empty where none is due or it was left out; all
    ranks call it, and it asks whether to go on, together."""
    identity: dict[str, Any]
    """What a resume must not change."""
    config: dict[str, Any]
    """The resolved config, for the checkpoints."""
    frozen_sha256: str | None = None
    """Names the file of the parameters that do not train, if there are any."""


def train(job: Training, position: Position, stop: StopRequest, watchdog: Watchdog) -> str | None:
    """Train from a position to the job's last step.

    Args:
        job: what to train, on what, and how.
        position: updated step by step.
        stop: asked once a step, before a validation and in it, and after a checkpoint; a request
            on any rank stops all at the same step.
        watchdog: is told of everything that is done.

    Returns:
        None when finished, else the reason of the stop. The last step is saved either way.
    """
    engine, world, max_steps = job.engine, job.world, job.max_steps
    data = Prefetcher(
        job.batches,
        position=position.consumed,
        workers=job.workers,
        device=world.device,
    )
    saved_step = position.step
    stop_now = False

    def go_on() -> bool:
        nonlocal stop_now
        watchdog.mark("agreeing on whether to go on")
        stop_now = stop_now or world.any(stop.requested())
        return not stop_now

    engine.train(True)
    try:
        if position.step == 0:
            validate(job, 0, go_on, stop, watchdog)
        stop.now(SAVING)
        while position.step < max_steps and not stop_now:
            started_s, waited_s = time.perf_counter(), data.wait_s
            watchdog.mark("waiting for data", step=position.step)
            batch = data.next()
            tally = Tally(len(job.batches.group_names), world.device)
            for i, micro in enumerate(batch.micro_batches):
                watchdog.mark("forward and backward")
                last = i + 1 == len(batch.micro_batches)
                sums = engine.forward(micro.inputs, last=last)
                engine.backward(sums.loss_sum / batch.supervised_tokens)
                tally.add(micro.groups, sums.sample_loss_sums, sums.sample_tokens)
            watchdog.mark("optimizer step")
            factor = job.schedule.factor(position.step, max_steps)
            report = engine.step(factor)
            watchdog.mark("adding up the losses")
            # The step's one reduction: losses and the wish to stop. Host-device sync.
            totals = world.sum(tally.with_flag(stop.requested()))
            losses, stop_now = tally.losses(totals), totals[-1] > 0

            positions = range(batch.first_position, batch.first_position + batch.samples)
            job.watch.record(
                losses.mean, applied=report.applied, step=position.step + 1, positions=positions
            )
            position.step += 1
            position.consumed += batch.samples
            watchdog.mark("writing metrics", step=position.step)
            job.metrics.record(
                step=position.step,
                consumed=position.consumed,
                samples=batch.samples,
                tokens=batch.tokens,
                losses=losses,
                report=report,
                lr_factor=factor,
                step_s=time.perf_counter() - started_s,
                data_wait_s=data.wait_s - waited_s,
                watch=job.watch,
                final=stop_now or position.step == max_steps,
            )
            watchdog.begin_steps()  # the first one may compile
            validate(job, position.step, go_on, stop, watchdog)
            if position.step % job.checkpoint.every_steps == 0:
                save(job, position, stop, watchdog)
                saved_step = position.step
                go_on()
    finally:
        data.close()
    if saved_step != position.step:
        save(job, position, stop, watchdog)
    if position.step >= max_steps:
        return None
    return stop.reason or "another rank was asked to stop"


def validate(
    job: Training, step: int, go_on: Callable[[], bool], stop: StopRequest, watchdog: Watchdog
) -> None:
    """Validate if it is due and no stop is asked for: a grace time is for saving."""
    stop.now("leaving the validation and saving")
    with watchdog.phase("validation"):
        job.metrics.validation(step, job.validate(step, go_on))
    stop.now(SAVING)


def save(job: Training, position: Position, stop: StopRequest, watchdog: Watchdog) -> None:
    """Write a checkpoint and delete those that retention no longer keeps."""
    stop.now("stopping when the checkpoint is whole, which is being written")
    with watchdog.phase("save"):
        _save(job, position)
    stop.now(SAVING)


def _save(job: Training, position: Position) -> None:
    started_s = time.perf_counter()
    facts = {
        "step": position.step,
        "consumed": position.consumed,
        "identity": job.identity,
        "config": job.config,
        "counters": {"watch": job.watch.state()},
        "frozen_sha256": job.frozen_sha256,
    }
    checkpoint.save(job.run, job.world, job.engine, attempt=job.attempt, facts=facts)
    log.info(
        "saved %s in %.1f s", job.run.checkpoint(position.step), time.perf_counter() - started_s
    )
    prune = partial(
        checkpoint.prune, job.run, job.checkpoint, attempt=job.attempt, written=position.step
    )
    job.world.run_on_main(prune)
