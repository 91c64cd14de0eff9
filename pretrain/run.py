"""Train a language model on bucket files.

    mobilellama pretrain run --config demo --data.path DATASET --run.folder RUN
    torchrun --nproc_per_node 8 -m mobilellama pretrain run --config mobilellama_1_4b ...
    mobilellama pretrain run --config demo --init OTHER_RUN --data.path DATASET --run.folder RUN

--config takes a YAML file or a preset's name. Fields on the command line override it. --init begins
a new run with existing weights: of another run, an export or a Hugging Face folder. Use it for
other data, annealing or a longer context.

The same command resumes the run from the newest whole checkpoint, on any number of processes.
Ctrl-C, SIGTERM or the file RUN/stop saves a checkpoint and ends the run. A second Ctrl-C ends it at
once. RUN/verdict.json says how the run ended: finished, stopped or failed. A crash writes no
verdict. The exit code of a finished or a stopped run is 0. Ranks that hang exit with code 75 and
without a verdict (--watchdog.step_minutes). If torchrun itself gets a signal, it exits with code
1 (docs/slurm.md).
"""

from dataclasses import asdict, replace
from functools import partial

import torch
from torch import Tensor

from mobilellama import log as logs
from mobilellama.distributed import Ranks, World, close
from mobilellama.pretrain.attempt import run_attempt_on
from mobilellama.pretrain.config import Config
from mobilellama.pretrain.hf.hub_names import open_on_all
from mobilellama.pretrain.hf.start import StartingPoint, open_start, require_same_tokenizer
from mobilellama.pretrain.identity import identity_of, precision_of
from mobilellama.pretrain.loop import RunFacts, Training
from mobilellama.pretrain.model import LanguageModel, build_on, init_parameter
from mobilellama.pretrain.optimizer import parameter_groups
from mobilellama.pretrain.optimizers.kind import open_optimizer
from mobilellama.pretrain.planning.parameters import flops_per_token
from mobilellama.pretrain.sinks.sink import require_modules
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.training_data import TrainingData, open_windows
from mobilellama.pretrain.weight_source import DrawnWeights, WeightSource, shapes_of
from mobilellama.run_folder import RunFolder
from mobilellama.run_record import RunRecord


def main(config: Config) -> int:
    """Check, start the processes, train, and leave a verdict."""
    logs.configure(rank=logs.rank_from_environment())
    # Before any process is started, so that mistakes are told once.
    run = RunFolder(config.run.folder)
    run.require_usable()
    require_modules(config.metrics.sinks)
    data = open_windows(config)
    ranks = Ranks(config.distributed)
    start, commits = open_on_all(
        ranks, run, [config.init], partial(open_start, config.init, config.model, run)
    )
    if start:
        remedy = f"Tokenise the text with --tokenizer {start.tokenizer and start.tokenizer.path}"
        require_same_tokenizer(start, data.dataset, remedy)
        config = replace(config, init=start.origin.init)
    world = ranks.join()
    logs.configure(rank=world.rank)
    precision = precision_of(config.engine, run, world.device)
    facts = replace(facts_of(config, data, precision, start), hub=commits)

    def build(checkpoint: Checkpoint | None) -> Training:
        if start and checkpoint is None:
            start.verify(world, start.origin.init)
        return pretraining(config, data, world, facts, start)

    run_attempt_on(data, config, world, facts, build)
    close()  # not after an error: leaving the group would wait for ranks that wait for us
    return 0


def facts_of(
    config: Config, data: TrainingData, precision: str, start: StartingPoint | None = None
) -> RunFacts:
    """Return what the run's attempts and checkpoints say of it."""
    identity = identity_of(config, config.model, data, precision)
    return RunFacts(
        identity={"init.fingerprint": start.fingerprint} | identity if start else identity,
        record=RunRecord(stage="pretrain", origin=start.origin if start else None),
        config=asdict(config),
    )


def pretraining(
    config: Config,
    data: TrainingData,
    world: World,
    facts: RunFacts,
    start: StartingPoint | None = None,
) -> Training:
    """Return what pretraining trains: every weight of a model, on windows of text.

    Args:
        config: of the run.
        data: the windows.
        world: the processes.
        facts: of the run.
        start: what the model starts from; None draws new weights.
    """
    train, optimizer = config.train, config.optimizer
    model = build_on(
        world.device,
        config.model,
        loss_chunk_tokens=train.loss_chunk_tokens,
        gradient_checkpointing=train.gradient_checkpointing,
    )
    return Training(
        config=config,
        facts=facts,
        model=model,
        layers=model.model.layers,
        groups=parameter_groups(model.named_parameters(), optimizer),
        optimizer=open_optimizer(optimizer),
        learning_rates={"learning_rate": optimizer.learning_rate},
        weights=lambda: start.require_weights() if start else new_weights(model, seed=train.seed),
        batches=data.batches(train, world),
        order=data.order,
        heldout=data.heldout(world),
        max_steps=train.max_steps,
        seq_len=train.seq_len,
        flops_per_token=flops_per_token(config.model, train.seq_len),
    )


def new_weights(model: LanguageModel, *, seed: int) -> WeightSource:
    """Return the first values of a new language model's parameters."""

    def draw(name: str, shape: torch.Size, seed: int) -> Tensor:
        return init_parameter(name, shape, model.config, seed)

    return DrawnWeights(shapes_of(model), draw, seed)
