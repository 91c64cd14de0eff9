"""Train a language model on bucket files.

    mobilellama pretrain run --config demo --data.path DATASET --run.folder RUN
    torchrun --nproc_per_node 8 -m mobilellama pretrain run --config mobilellama_1_4b ...

--config takes a YAML file or a preset's name; any field can be overruled on the command line.
The same command resumes: it goes on from the newest whole checkpoint in the run's folder, on
however many processes. Ctrl-C, SIGTERM or the file RUN/stop save and leave; a second Ctrl-C
leaves at once. What happened is in RUN/verdict.json: finished, stopped or failed; a run that
was saved and stopped exits with 0 like one that finished, and a crash leaves no verdict.
"""

import logging
import sys
from dataclasses import asdict
from typing import Any

import torch
import yaml

from mobilellama import __version__
from mobilellama import log as logs
from mobilellama.config import UserError
from mobilellama.distributed import OtherRankError, World, close
from mobilellama.files import whole_file
from mobilellama.pretrain.assemble import TrainingData, assemble, open_data
from mobilellama.pretrain.checkpoint import open_newest
from mobilellama.pretrain.config import Config
from mobilellama.pretrain.engine import resolve_precision
from mobilellama.pretrain.identity import identity_of, require_same_identity
from mobilellama.pretrain.loop import Position, train
from mobilellama.pretrain.stop import StopRequest
from mobilellama.run_folder import FencedError, RunFolder, Verdict, VerdictKind
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.verify import bucket_names, verify_dataset

log = logging.getLogger(__name__)


def main(config: Config) -> int:
    """Check, start the processes, train, and leave a verdict."""
    logs.configure(rank=logs.rank_from_environment())
    data = open_data(config)  # before any process is started, so that mistakes are told once
    world = World(config.launch)
    logs.configure(rank=world.rank)
    pretrain(config, data, world)
    close()  # not after an error: leaving the group would wait for ranks that wait for us
    return 0


def pretrain(config: Config, data: TrainingData, world: World) -> None:
    """Run one attempt on every process, from the newest checkpoint to its verdict."""
    run = RunFolder(config.run.folder)
    precision = resolve_precision(config.engine.precision, world.device)
    identity = identity_of(config, data, precision)
    attempt = begin(run, world, config, data, identity)
    position = Position()

    def conclude(kind: VerdictKind, message: str) -> None:
        run.write_verdict(Verdict(kind=kind, message=message, attempt=attempt, step=position.step))

    try:
        if config.data.verify:
            log.info("checking the sha256 of every bucket of %s", data.dataset.folder)
            verify_share(data.dataset, world)
        checkpoint = open_newest(run, world, attempt=attempt)
        job = assemble(config, data, world, run, attempt, precision, identity, checkpoint)
        if checkpoint:
            position = Position(
                step=checkpoint.manifest.step, consumed=checkpoint.manifest.consumed
            )
        stop = StopRequest(
            stop_file=run.stop if world.is_main else None, max_hours=config.run.max_hours
        )
        with stop.handling_signals():
            reason = train(job, position, stop)
        job.metrics.close()
    except (OtherRankError, FencedError):
        raise  # the verdict is the other rank's, or the newer attempt's
    except UserError as error:
        conclude("failed", str(error))  # whichever rank met it; a retry would meet it again
        raise
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        # Not final, so no verdict: whoever started the run may start it again.
        raise OtherRankError(
            "the connection to another rank is lost, so that rank was killed or its node is down. "
            "The same command goes on from the newest checkpoint"
        ) from None
    if world.is_main:
        kind = "stopped" if reason else "finished"
        message = f"{kind} at step {position.step}" + (f": {reason}" if reason else "")
        conclude(kind, message)
        log.info("%s; run folder %s", message, run.path)
        if reason:
            log.info("the same command goes on from here")


def _is_lost_connection(error: RuntimeError) -> bool:
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return any(word in str(error) for word in words)


def begin(
    run: RunFolder, world: World, config: Config, data: TrainingData, identity: dict[str, Any]
) -> int:
    """Make the run's folder and this attempt on rank 0; return the attempt's number.

    Raises:
        ConfigError: the folder holds another run. It, and an attempt that may be at work in
            it, are left as they are.
    """
    number = 0

    def make() -> None:
        nonlocal number
        require_same_identity(run, identity)
        run.create()
        number = run.begin_attempt(
            {
                "version": __version__,
                "argv": sys.argv[1:],
                "world_size": world.size,
                "device": str(world.device),
                "torch": torch.__version__,
                "identity": identity,
                "config": asdict(config),
            }
        )
        run.stop.unlink(missing_ok=True)  # a former attempt's
        run.remove_leftovers()
        with whole_file(run.tokenizer) as file:
            file.write(data.dataset.tokenizer.model_bytes)
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
        raise OtherRankError(f"{dataset.folder}: another rank found a bad bucket")
