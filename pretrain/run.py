"""Train a language model on bucket files.

    mobilellama pretrain run --config demo --data.path DATASET --run.folder RUN
    torchrun --nproc_per_node 8 -m mobilellama pretrain run --config mobilellama_1_4b ...
    mobilellama pretrain run --config demo --init OTHER_RUN --data.path DATASET --run.folder RUN

--config takes a YAML file or a preset's name; any field can be overruled on the command line.
--init begins a new run with weights that are there, for other data, annealing or a longer context:
those of another run, an export or a Hugging Face folder.

The same command resumes: it goes on from the newest whole checkpoint in the run's folder, on
however many processes. Ctrl-C, SIGTERM or the file RUN/stop save and leave; a second Ctrl-C
leaves at once. What happened is in RUN/verdict.json: finished, stopped or failed; a run that
was saved and stopped exits with 0 like one that finished, and a crash leaves no verdict. Ranks
that hang leave with 75 and no verdict (--watchdog.step_minutes). torchrun exits with 1 when it is
itself sent a signal: docs/slurm.md.
"""

from dataclasses import asdict, replace
from functools import partial

from mobilellama import log as logs
from mobilellama.distributed import World, close
from mobilellama.pretrain.assemble import assemble, open_windows, pretraining
from mobilellama.pretrain.attempt import run_attempt, save_dataset_texts, verify_buckets
from mobilellama.pretrain.config import Config
from mobilellama.pretrain.hf.start import open_start, require_same_tokenizer
from mobilellama.pretrain.identity import identity_of, precision_of
from mobilellama.pretrain.loop import Training
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.run_folder import RunFolder


def main(config: Config) -> int:
    """Check, start the processes, train, and leave a verdict."""
    logs.configure(rank=logs.rank_from_environment())
    # Before any process is started, so that mistakes are told once.
    run = RunFolder(config.run.folder)
    run.require_usable()
    data = open_windows(config)
    if start := open_start(config.init, config.model, run):
        remedy = f"Tokenise the text with --tokenizer {start.tokenizer and start.tokenizer.path}"
        require_same_tokenizer(start, data.dataset, remedy)
        config = replace(config, init=start.origin.init)
    world = World(config.distributed)
    logs.configure(rank=world.rank)
    precision = precision_of(config.engine, run, world.device)
    identity = identity_of(config, config.model, data, precision)
    if start:
        identity = {"init.fingerprint": start.fingerprint} | identity
    stage = pretraining(config, data, world, start)

    def build(attempt: int, checkpoint: Checkpoint | None) -> Training:
        if start and checkpoint is None:
            start.verify(world, start.origin.init)
        job = assemble(config, stage, world, attempt, identity, checkpoint)
        if start:
            start.close()
        return job

    run_attempt(
        world,
        run,
        identity=identity,
        record=stage.record,
        config=asdict(config),
        save_texts=partial(save_dataset_texts, data.dataset),
        max_hours=config.run.max_hours,
        watchdog=config.watchdog,
        verify=partial(verify_buckets, data.dataset, world) if config.data.verify else None,
        assemble=build,
    )
    close()  # not after an error: leaving the group would wait for ranks that wait for us
    return 0
