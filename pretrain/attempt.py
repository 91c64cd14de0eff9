"""One attempt of a run, of any stage: from the newest checkpoint to a verdict."""

import logging
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from functools import partial

import torch
import yaml
from torch.distributed import DistNetworkError

from mobilellama import __version__, launcher
from mobilellama.commandline.old_names import as_stored
from mobilellama.config import UserError, one_line
from mobilellama.distributed import OtherRankError, World
from mobilellama.files.atomic import whole_file
from mobilellama.pretrain.assemble import assemble
from mobilellama.pretrain.config import StageConfig
from mobilellama.pretrain.hf.hub_names import HUB
from mobilellama.pretrain.identity import require_end_ahead, require_same_identity
from mobilellama.pretrain.loop import Attempt, RunFacts, Training, TrainState, train
from mobilellama.pretrain.monitoring.watchdog import Watchdog
from mobilellama.pretrain.state.checkpoint import Checkpoint, newest_readable, open_newest
from mobilellama.pretrain.state.manifest import Manifest
from mobilellama.pretrain.stop import StopRequest
from mobilellama.pretrain.training_data import TrainingData
from mobilellama.run_folder import FencedError, RunFolder, Verdict, VerdictKind
from mobilellama.run_record import RECORD
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.verification.checked_files import bucket_names
from mobilellama.shards.verify import verify_dataset
from mobilellama.signals import BEFORE_STEPS, StoppedError

log = logging.getLogger(__name__)


def run_attempt_on(
    data: TrainingData,
    config: StageConfig,
    world: World,
    facts: RunFacts,
    build: Callable[[Checkpoint | None], Training],
) -> None:
    """Run one attempt on a dataset: its tokenizer is kept in the run, and its buckets are checked.

    Args and errors are those of ``run_attempt``.
    """
    run_attempt(
        config,
        world,
        facts,
        save_texts=partial(save_dataset_texts, data.dataset),
        build=build,
        verify=partial(verify_buckets, data.dataset, world) if config.data.verify else None,
        end=lambda newest: data.end,
    )


def run_attempt(
    config: StageConfig,
    world: World,
    facts: RunFacts,
    *,
    save_texts: Callable[[RunFolder], object],
    build: Callable[[Checkpoint | None], Training],
    verify: Callable[[], object] | None = None,
    end: Callable[[Manifest], int | None] | None = None,
) -> None:
    """Run one attempt on every process; all call this together.

    Args:
        config: the stage's; the run's folder is made if it is not there.
        world: the processes.
        facts: what the attempt's file and the run's config say (rank 0's identity counts).
        save_texts: puts tokenizer and template into the run (rank 0 only).
        build: (newest whole checkpoint) -> what to train.
        verify: checks what is trained on first; all ranks call it. None checks nothing.
        end: (newest checkpoint) -> the samples of the whole run, where ``train.max_steps`` is not
            given (rank 0 only). None: it is always given.

    Raises:
        ConfigError: the folder holds another run, or one that is beyond its end. It is left as it
            is.
        UserError: what a retry would meet again; the verdict ``failed`` says it too.
    """
    run = RunFolder(config.run.folder)
    number = begin(config, world, run, facts, save_texts, end)
    newest = newest_readable(run)  # a folder's name alone may tell another step
    state = TrainState(step=newest[1].step if newest else 0)
    stop = StopRequest(stop_files=(run.stop, launcher.stop_file()) if world.is_main else ())

    def conclude(kind: VerdictKind, message: str) -> None:
        run.write_verdict(Verdict(kind=kind, message=message, attempt=number, step=state.step))

    def require_no_stop() -> None:
        if world.any(stop.requested()):
            raise StoppedError

    attempt: Attempt | None = None
    try:
        with (
            stop.handling_signals(BEFORE_STEPS, is_main=world.is_main),
            Watchdog(
                config.watchdog, run=run, world=world, attempt=number, step=state.step
            ) as watch,
        ):
            require_no_stop()
            watch.mark("verifying the data")
            if verify:
                verify()
            require_no_stop()
            watch.mark("opening the newest checkpoint")
            checkpoint = open_newest(run, world, attempt=number)
            require_no_stop()
            watch.mark("building and loading the model")
            job = build(checkpoint)
            attempt = assemble(job, run, world, number, checkpoint)
            found = checkpoint and checkpoint.manifest
            state.step, state.consumed = (found.step, found.consumed) if found else (0, 0)
            require_no_stop()
            stop.limit(config.run.max_hours)
            reason = train(job, attempt, state, stop, watch)
    except StoppedError:
        reason = f"{stop.reason or 'another rank was asked to stop'}, before its first step"
    except (OtherRankError, FencedError):
        raise  # the verdict is the other rank's, or the newer attempt's
    except UserError as error:
        conclude("failed", str(error))  # whichever rank met it; a retry would meet it again
        raise
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        # Not final, so no verdict: whoever started the run may start it again.
        raise OtherRankError(
            "the connection to another rank is lost: it failed with a message of its own, was "
            "killed, or its node is down. Unless verdict.json says 'failed', the same command goes "
            f"on from the newest checkpoint. What the connection said: {one_line(error)[:300]}"
        ) from None
    if world.is_main:
        kind = "stopped" if reason else "finished"
        message = f"{kind} at step {state.step}" + (f": {reason}" if reason else "")
        conclude(kind, message)
        log.info("%s; run folder %s", message, run.path)
        if reason:
            log.info("the same command goes on from here")
    if attempt:  # last: a sink may wait for a network that is gone
        attempt.metrics.close()


def save_dataset_texts(dataset: TokenDataset, run: RunFolder) -> None:
    """Copy a dataset's tokenizer, and its template if it has one, into a run."""
    dataset.tokenizer.save(run.path)
    dataset.require_as_described(dataset.template)
    if dataset.template.is_file():
        with whole_file(run.template) as file:
            file.write(dataset.template.read_bytes())


def verify_buckets(dataset: TokenDataset, world: World) -> None:
    """Check the sha256 of every bucket; the ranks share them out.

    Raises:
        DataError: one is not as it was written, on its rank; OtherRankError on the others.
    """
    log.info("checking the sha256 of every bucket of %s", dataset.folder)
    mine = bucket_names(dataset)[world.rank :: world.size]
    world.run_on_all(
        lambda: verify_dataset(dataset, workers=1, buckets=mine),
        otherwise=f"{dataset.folder}: another rank found a bad bucket",
    )


def is_lost_connection(error: RuntimeError) -> bool:
    """Return whether an error of a collective says that another rank is gone.

    gloo and the store raise RuntimeError, and the store DistNetworkError too. NCCL raises
    DistBackendError, also for mistakes and faults of this rank, so its words decide.
    """
    words = (
        "Connection closed by peer", "Connection reset by peer", "Broken pipe",  # gloo, the store
        "ncclRemoteError", "remote process exited", "unexpected exit of a remote peer",  # NCCL
        "NCCL communicator was aborted",  # by the watchdog, which waited for a peer in vain
    )  # fmt: skip
    return isinstance(error, DistNetworkError) or any(word in str(error) for word in words)


def begin(
    config: StageConfig,
    world: World,
    run: RunFolder,
    facts: RunFacts,
    save_texts: Callable[[RunFolder], object],
    end: Callable[[Manifest], int | None] | None = None,
) -> int:
    """Make the run's folder and this attempt on rank 0; return the attempt's number.

    Raises:
        ConfigError: the folder holds another run, or one that is beyond its end. It, and an
            attempt that may be at work in it, are left as they are.
    """
    number = 0

    def make() -> None:
        nonlocal number
        require_same_identity(run, facts.identity, optimizer=config.optimizer.kind)
        require_end_ahead(run, facts.config["train"], end or (lambda newest: None))
        run.create()
        newest = newest_readable(run)
        saved = newest[1].step if newest else 0
        reached = max((record["step"] for record in run.read_metrics()), default=0)
        if reached > saved:
            log.info("steps %d to %d were not saved and are done again", saved + 1, reached)
        number = run.begin_attempt(
            {
                "started": datetime.now().astimezone().isoformat(timespec="seconds"),
                "saved_step": saved,
                "repeated_steps": max(0, reached - saved),
                "job": launcher.job_name(),
                "version": __version__,
                "argv": sys.argv[1:],
                "world_size": world.size,
                "device": str(world.device),
                "torch": torch.__version__,
                "identity": facts.identity,
                RECORD: asdict(facts.record),
                HUB: facts.hub,
                "config": as_stored(facts.config),
            }
        )
        run.stop.unlink(missing_ok=True)  # a former attempt's
        run.remove_leftovers()
        run.digests.unlink(missing_ok=True)
        save_texts(run)
        run.write_digests()
        with whole_file(run.config) as file:
            file.write(yaml.safe_dump(facts.config, sort_keys=False).encode())

    # Long: the end by epochs is known only after the samples are made, where they are lost.
    world.run_on_main(make, takes_long=True, may_stop=False)
    return world.broadcast(number)
