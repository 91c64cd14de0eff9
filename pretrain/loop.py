"""The training loop. It knows no stage: data, model and parameter groups come from outside.

One step: fetch the data, run forward and backward for each micro-batch, step the optimizer, add
up losses and stop flags over all ranks in one reduction, log, validate, save a checkpoint.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mobilellama.distributed import World
from mobilellama.pretrain.config import StageConfig
from mobilellama.pretrain.data import Batches
from mobilellama.pretrain.engines.engine import Engine
from mobilellama.pretrain.monitoring.interval import StepResult
from mobilellama.pretrain.monitoring.loss_watch import LossWatch
from mobilellama.pretrain.monitoring.metrics import Metrics
from mobilellama.pretrain.monitoring.tally import Tally
from mobilellama.pretrain.monitoring.watchdog import Watchdog
from mobilellama.pretrain.optimizer import ParameterGroup
from mobilellama.pretrain.optimizers.kind import OptimizerKind
from mobilellama.pretrain.prefetch import Prefetcher
from mobilellama.pretrain.state import checkpoint
from mobilellama.pretrain.stop import SAVING, StopRequest
from mobilellama.pretrain.validate import HeldOut, Validation
from mobilellama.pretrain.weight_source import WeightSource
from mobilellama.run_folder import RunFolder
from mobilellama.run_record import RunRecord

log = logging.getLogger(__name__)


@dataclass
class TrainState:
    """How far a run is."""

    step: int = 0
    """Optimizer steps so far, skipped ones included."""
    consumed: int = 0
    """Samples consumed: the data position."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run's attempts and checkpoints say of it."""

    identity: dict[str, Any]
    """The fields that a resume must not change."""
    record: RunRecord
    """What the run is."""
    config: dict[str, Any]
    """The resolved config, with the model and, where a stage says it, where its parts are from."""
    hub: dict[str, str] = field(default_factory=dict)
    """Names on the Hub, as they were given, and the commits that this attempt took of them."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a stage trains, on what, and how far: all that a stage gives to the loop."""

    config: StageConfig
    """The sections that all stages have."""
    facts: RunFacts
    """What the run's attempts and checkpoints say of it."""
    model: nn.Module
    """On its device, with zeros for weights; those that want a gradient train."""
    layers: Iterable[nn.Module]
    """The parts of the model that are compiled, each by itself."""
    groups: list[ParameterGroup]
    """The parameters that train."""
    optimizer: OptimizerKind
    """Updates them. The stage opens it, so that no engine reads its constants."""
    learning_rates: dict[str, float]
    """Peak rates by the names that metrics give them."""
    weights: Callable[[], WeightSource]
    """Opens the first values of the parameters, for a run that begins. Those that train are read in
    fp32, the others in the dtype they come in."""
    batches: Batches
    """This rank's samples."""
    order: str
    """One line on the order of the samples, for the log."""
    heldout: HeldOut | None
    """What validation looks at."""
    max_steps: int | None
    """Optimizer steps of the run; None where the samples say how far it goes."""
    seq_len: int | None = None
    """Tokens of every sample; None where samples differ."""
    flops_per_token: float | None = None
    """For MFU; None where not every token costs the same, and no MFU is shown."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at a training: what does it, and what writes it down."""

    run: RunFolder
    world: World
    number: int
    """The number of the attempt, from 1."""
    engine: Engine
    """With the state of a checkpoint, or first values."""
    max_steps: int
    """Optimizer steps of the whole run."""
    watch: LossWatch
    metrics: Metrics
    validate: Validation
    """All ranks call it together."""
    config: dict[str, Any]
    """The resolved config. Checkpoints store it."""
    frozen_sha256: str | None
    """Name of the file with the parameters that do not train. None where all parameters train."""


def train(
    job: Training, attempt: Attempt, state: TrainState, stop: StopRequest, watchdog: Watchdog
) -> str | None:
    """Train from a state to the job's last step.

    Args:
        job: what to train, on what, and how.
        attempt: does it.
        state: updated step by step.
        stop: the loop asks it once a step, before and during a validation, and after a
            checkpoint. A request on one rank stops all ranks at the same step.
        watchdog: the loop tells it the start of each part of a step.

    Returns:
        None when the run is finished, else the reason of the stop. The last step is saved in both
        cases.
    """
    world, max_steps = attempt.world, attempt.max_steps
    data = Prefetcher(
        job.batches,
        position=state.consumed,
        workers=job.config.data.workers,
        device=world.device,
    )
    saved_step = state.step
    stop_now = False

    def go_on() -> bool:
        nonlocal stop_now
        watchdog.mark("agreeing on whether to go on")
        # Collective: a rank that stopped alone would leave the others waiting in the next one.
        # stop_now is the same on all ranks, so all ranks skip the call together.
        stop_now = stop_now or world.any(stop.requested())
        return not stop_now

    attempt.engine.train(True)
    try:
        if state.step == 0:
            # A resumed run has this loss in its metrics already.
            validate(attempt, 0, go_on, stop, watchdog)
        stop.now(SAVING)
        while state.step < max_steps and not stop_now:
            result = take_step(job, attempt, data, state.step, stop, watchdog)
            stop_now = result.stop_requested
            # A skipped step counts too: step, position and schedule never drift apart.
            state.step += 1
            state.consumed += result.num_samples
            watchdog.mark("writing metrics", step=state.step)
            attempt.metrics.record(
                result,
                step=state.step,
                consumed=state.consumed,
                watch=attempt.watch,
                final=stop_now or state.step == max_steps,
            )
            # After the first step: it may compile kernels, so it has the longer limit of the start.
            watchdog.begin_steps()
            validate(attempt, state.step, go_on, stop, watchdog)
            if state.step % job.config.checkpoint.every_steps == 0:
                save(job, attempt, state, stop, watchdog)
                saved_step = state.step
                # A save can take minutes. A stop that came meanwhile must not cost one more step.
                go_on()
    finally:
        # Also on an error: the threads that read ahead would keep the process alive.
        data.close()
    # Reached only without an error. After one, the ranks may differ, and a save is a collective.
    if saved_step != state.step:
        save(job, attempt, state, stop, watchdog)
    if state.step >= max_steps:
        return None
    return stop.reason or "another rank was asked to stop"


def take_step(
    job: Training,
    attempt: Attempt,
    data: Prefetcher,
    steps_done: int,
    stop: StopRequest,
    watchdog: Watchdog,
) -> StepResult:
    """Take the next step, from its data to the losses of all ranks. All ranks call it together.

    Args:
        job: what to train, on what, and how.
        attempt: does it.
        data: reads the samples ahead.
        steps_done: the steps before this one. The learning rate depends on them.
        stop: asked once. The losses carry its answer to all ranks.
        watchdog: is told the start of each part.
    """
    engine, world = attempt.engine, attempt.world
    started_s, waited_s = time.perf_counter(), data.wait_s
    watchdog.mark("waiting for data", step=steps_done)
    # The CPU waits here only if the threads of the prefetcher are slower than the step.
    batch = data.next()
    tally = Tally(len(job.batches.group_names), world.device)
    for i, micro in enumerate(batch.micro_batches):
        watchdog.mark("forward and backward")
        last = i + 1 == len(batch.micro_batches)
        # DDP decides in forward whether this backward reduces, so it needs `last` here.
        sums = engine.forward(micro.inputs, last=last)
        # Divide by the supervised tokens of the whole step, on all ranks. A mean for each
        # micro-batch would give tokens of short micro-batches more weight.
        engine.backward(sums.loss_sum / batch.supervised_tokens)
        # The sums stay on the device: .item() here would wait for the GPU every time.
        tally.add(micro.groups, sums.sample_loss_sums, sums.sample_tokens)
    watchdog.mark("optimizer step")
    # A pure function of the step: a resume has no scheduler state to restore.
    factor = job.config.schedule.factor(steps_done, attempt.max_steps)
    # Collective and host-device sync: gradients are summed over ranks, and the CPU reads
    # their norm to know whether the step was applied.
    report = engine.step(factor)
    watchdog.mark("adding up the losses")
    # The loop's own collective, one a step, and a host-device sync. The request to stop
    # travels with the losses, so all ranks learn of it at the same step.
    totals = world.sum(tally.with_flag(stop.requested()))
    losses, stop_requested = tally.losses(totals), totals[-1] > 0
    positions = range(batch.first_position, batch.first_position + batch.num_samples)
    # All ranks see the same losses here. If the watch ends the run, it ends on all ranks.
    attempt.watch.record(
        losses.mean, applied=report.applied, step=steps_done + 1, positions=positions
    )
    return StepResult(
        num_samples=batch.num_samples,
        tokens=batch.tokens,
        losses=losses,
        report=report,
        lr_factor=factor,
        # The sum above waited for the GPU, so this is the time of all its work, not of its launch.
        step_s=time.perf_counter() - started_s,
        data_wait_s=data.wait_s - waited_s,
        stop_requested=stop_requested,
    )


def validate(
    attempt: Attempt, step: int, go_on: Callable[[], bool], stop: StopRequest, watchdog: Watchdog
) -> None:
    """Validate if it is due and no stop was asked for.

    After a request to stop, the time that is left belongs to the checkpoint.
    """
    # Only the answer to a signal changes: the console must say at once what happens, and a
    # validation ends at a request.
    stop.now("leaving the validation and saving")
    with watchdog.phase("validation"):
        attempt.metrics.validation(step, attempt.validate(step, go_on))
    stop.now(SAVING)


def save(
    job: Training, attempt: Attempt, state: TrainState, stop: StopRequest, watchdog: Watchdog
) -> None:
    """Write a checkpoint and delete old ones."""
    stop.now("stopping when the checkpoint is whole, which is being written")
    with watchdog.phase("save"):
        _save(job, attempt, state)
    stop.now(SAVING)


def _save(job: Training, attempt: Attempt, state: TrainState) -> None:
    started_s = time.perf_counter()
    run, world = attempt.run, attempt.world
    facts = {
        "step": state.step,
        "consumed": state.consumed,
        "identity": job.facts.identity,
        "record": job.facts.record,
        "config": attempt.config,
        "counters": {"watch": attempt.watch.state(), "interval": attempt.metrics.state()},
        "frozen_sha256": attempt.frozen_sha256,
    }
    checkpoint.save(run, world, attempt.engine, attempt=attempt.number, facts=facts)
    log.info("saved %s in %.1f s", run.checkpoint(state.step), time.perf_counter() - started_s)
    # After the commit: a save that fails must not have deleted the checkpoints before it.
    settings = job.config.checkpoint
    world.run_on_main(
        lambda: checkpoint.prune(run, settings, attempt=attempt.number, written=state.step)
    )
