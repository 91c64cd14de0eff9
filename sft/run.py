"""Finetune a model on conversations: all its weights, or low-rank updates of them (LoRA).

    mobilellama sft run --config demo_sft --init BASE --data.path DATASET --run.folder RUN
    torchrun --nproc_per_node 8 -m mobilellama sft run --config mobilellama_1_4b_sft ...
    mobilellama sft run --config mobilellama_1_4b_sft --lora.rank 128 ...

DATASET is the output of 'sft prepare'. BASE is a Hugging Face folder of Llama's shape (safetensors
or .bin), a run of 'pretrain run', or another run of 'sft run'. The loss is the mean over all
supervised tokens of the global batch. Each epoch uses every row once.

The same command resumes the run on any number of processes. If nothing else has changed, the
result is the same bit for bit. Ctrl-C, SIGTERM or the file RUN/stop saves a checkpoint and ends
the run. A second Ctrl-C ends it at once. RUN/verdict.json says how the run ended. Ranks that hang
exit with code 75 and without a verdict (--watchdog.step_minutes; docs/slurm.md). 'pretrain plot'
and 'pretrain replay' also work on this run. 'sft export' exports it. 'sft merge' exports the
merged model of a LoRA run.
"""

from dataclasses import asdict, replace
from functools import partial

import torch

from mobilellama import log as logs
from mobilellama.config import ConfigError
from mobilellama.distributed import Ranks, World, close
from mobilellama.pretrain.attempt import run_attempt_on
from mobilellama.pretrain.hf.hub_names import open_on_all
from mobilellama.pretrain.hf.start import require_same_tokenizer
from mobilellama.pretrain.identity import identity_of, precision_of
from mobilellama.pretrain.loop import RunFacts, Training
from mobilellama.pretrain.model import LanguageModel, build_on
from mobilellama.pretrain.optimizer import parameter_groups, trained
from mobilellama.pretrain.optimizers.kind import open_optimizer
from mobilellama.pretrain.sinks.sink import require_modules
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.training_data import TrainingData, open_data
from mobilellama.pretrain.weight_source import shapes_of
from mobilellama.progress import format_count
from mobilellama.run_folder import RunFolder
from mobilellama.run_record import RunRecord
from mobilellama.sft.config import Config
from mobilellama.sft.lora import inject, with_new_adapters, with_targets
from mobilellama.sft.row_inputs import RowInputs
from mobilellama.sft.start import FinetuningStart, open_start
from mobilellama.shards.reader import TokenDataset


def main(config: Config) -> int:
    """Check, start the processes, train, and leave a verdict."""
    logs.configure(rank=logs.rank_from_environment())
    # Before any process is started, so that mistakes are told once.
    run = RunFolder(config.run.folder)
    run.require_usable()
    require_modules(config.metrics.sinks)
    dataset = open_rows(config.data.path)
    seq_len = dataset.identity.rows.seq_len
    ranks = Ranks(config.distributed)
    start, commits = open_on_all(ranks, run, [config.init], partial(open_start, config.init, run))
    with torch.device("meta"):
        lora = with_targets(config.lora, LanguageModel(start.model), before=start.lora)
    config = replace(config, init=start.origin.init, lora=lora)
    require_fit(start, seq_len)
    remedy = f"Prepare the data with --tokenizer {config.init}"
    require_same_tokenizer(start, dataset, remedy)
    pad_id = dataset.tokenizer.pad_id
    inputs = RowInputs(seq_len=seq_len, pad_id=0 if pad_id is None else pad_id)
    data = open_data(config, dataset, inputs, seq_len=seq_len, vocab_size=start.model.vocab_size)
    data = replace(data, end=end_of(config, data))
    world = ranks.join()
    logs.configure(rank=world.rank)
    precision = precision_of(config.engine, run, world.device)
    facts = replace(facts_of(config, start, data, precision), hub=commits)

    def build(checkpoint: Checkpoint | None) -> Training:
        if checkpoint is None:
            start.verify(world, config.init)
        return finetuning(config, start, data, world, facts)

    run_attempt_on(data, config, world, facts, build)
    close()  # not after an error: leaving the group would wait for ranks that wait for us
    return 0


def open_rows(path: str) -> TokenDataset:
    """Open a dataset of rows.

    Raises:
        ConfigError: it is none.
    """
    dataset = TokenDataset(path, field="data.path")
    if dataset.identity.packing is None:
        rule = "holds plain text, not conversations"
        raise ConfigError("data.path", path, rule, "Give the --output of 'mobilellama sft prepare'")
    return dataset


def require_fit(start: FinetuningStart, seq_len: int) -> None:
    """Raise ConfigError unless the model takes rows of this length."""
    if seq_len > start.model.max_seq_len:
        raise ConfigError(
            "init",
            f"a model of {start.model.max_seq_len:,} positions",
            f"is too short for the dataset's rows of {seq_len} tokens",
            f"Prepare with --seq_len {start.model.max_seq_len} or less",
        )


def end_of(config: Config, data: TrainingData) -> int | None:
    """Return how many samples the run has; None where it goes by steps.

    Raises:
        ConfigError: it would have none.
    """
    if config.train.max_steps is not None:
        return None
    rows = sum(data.mixture.num_samples)
    num_samples = round(config.train.epochs * rows)
    if not num_samples:
        rule = f"gives no row to train on: {config.data.path} has {format_count(rows, 'row')}"
        raise ConfigError("train.epochs", config.train.epochs, rule, "Give more")
    return num_samples


def facts_of(
    config: Config, start: FinetuningStart, data: TrainingData, precision: str
) -> RunFacts:
    """Return what the run's attempts and checkpoints say of it."""
    record = RunRecord(
        stage="sft",
        origin=start.origin,
        template=data.dataset.identity.rows.template,
        lora=config.lora.adapters,
    )
    return RunFacts(
        identity=identity_of_run(config, start, data, precision),
        record=record,
        config=asdict(config) | {"model": asdict(start.model)},
    )


def finetuning(
    config: Config,
    start: FinetuningStart,
    data: TrainingData,
    world: World,
    facts: RunFacts,
) -> Training:
    """Return what finetuning trains, on packed rows."""
    train, optimizer = config.train, config.optimizer
    model = build_on(
        world.device,
        start.model,
        loss_chunk_tokens=train.loss_chunk_tokens,
        gradient_checkpointing=train.gradient_checkpointing,
        adapt=partial(inject, config=config.lora),
    )
    return Training(
        config=config,
        facts=facts,
        model=model,
        layers=model.model.layers,
        groups=parameter_groups(trained(model), optimizer),
        optimizer=open_optimizer(optimizer),
        learning_rates={"learning_rate": optimizer.learning_rate},
        weights=lambda: with_new_adapters(start.require_weights(), shapes_of(model), train.seed),
        batches=data.batches(train, world),
        order=data.order,
        heldout=data.heldout(world),
        max_steps=train.max_steps,
        seq_len=data.seq_len,
    )


def identity_of_run(
    config: Config, start: FinetuningStart, data: TrainingData, precision: str
) -> dict[str, object]:
    """Return the fields that a resume must not change."""
    adapters = {"lora.alpha": config.lora.alpha, "lora.targets": config.lora.targets}
    return {
        "init.fingerprint": start.fingerprint,
        "lora.rank": config.lora.rank,
        **(adapters if config.lora.rank else {}),
        **identity_of(config, start.model, data, precision),
    }
