"""Finetune a model on conversations, all its weights or low-rank updates (LoRA) of them.

    mobilellama sft run --config demo_sft --init BASE --data.path DATASET --run.folder RUN
    torchrun --nproc_per_node 8 -m mobilellama sft run --config mobilellama_1_4b_sft ...
    mobilellama sft run --config mobilellama_1_4b_sft --lora.rank 128 ...

DATASET is what 'sft prepare' made. BASE is a Hugging Face folder of Llama's shape (safetensors or
.bin), a run of 'pretrain run', or another of 'sft run'. The loss is the mean over all supervised
tokens of the global batch; every row is seen once an epoch.

The same command resumes, on however many processes, bit for bit where nothing else changed.
Ctrl-C, SIGTERM or the file RUN/stop save and leave; a second Ctrl-C leaves at once. What happened
is in RUN/verdict.json, as for 'pretrain run'. Ranks that hang leave with 75 and no verdict
(--watchdog.step_minutes; docs/slurm.md). 'pretrain plot' and 'pretrain replay' show this run
too. Export it with 'sft export', a LoRA run's merged model with 'sft merge'.
"""

from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from mobilellama import log as logs
from mobilellama.config import ConfigError
from mobilellama.distributed import World, close
from mobilellama.pretrain.assemble import (
    Stage,
    TrainingData,
    assemble,
    language_stage,
    open_data,
)
from mobilellama.pretrain.attempt import run_attempt, save_dataset_texts, verify_buckets
from mobilellama.pretrain.hf.start import require_same_tokenizer
from mobilellama.pretrain.identity import identity_of, precision_of
from mobilellama.pretrain.loop import Training
from mobilellama.pretrain.model import LanguageModel
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.weight_source import shapes_of
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
    dataset = open_rows(config.data.path)
    seq_len = dataset.identity.packing["seq_len"]
    start = open_start(config.init, run)
    with torch.device("meta"):
        lora = with_targets(config.lora, LanguageModel(start.model), before=start.lora)
    config = replace(config, init=start.origin.init, lora=lora)
    require_fit(start, seq_len)
    remedy = f"Prepare the data with --tokenizer {config.init}"
    require_same_tokenizer(start, dataset, remedy)
    pad_id = dataset.tokenizer.pad_id
    inputs = RowInputs(seq_len=seq_len, pad_id=0 if pad_id is None else pad_id)
    data = open_data(config, dataset, inputs, seq_len=seq_len, vocab_size=start.model.vocab_size)
    world = World(config.distributed)
    logs.configure(rank=world.rank)
    precision = precision_of(config.engine, run, world.device)
    identity = identity_of_run(config, start, data, precision)
    stage = finetuning(config, start, data, world)

    def build(attempt: int, checkpoint: Checkpoint | None) -> Training:
        if checkpoint is None:
            start.verify(world, config.init)
        job = assemble(config, stage, world, attempt, identity, checkpoint)
        start.close()  # an older .bin file would lie in every rank's memory all along
        return job

    run_attempt(
        world,
        run,
        identity=identity,
        record=stage.record,
        config=asdict(config) | {"model": asdict(start.model)},
        save_texts=partial(save_dataset_texts, data.dataset),
        max_hours=config.run.max_hours,
        watchdog=config.watchdog,
        verify=partial(verify_buckets, data.dataset, world) if config.data.verify else None,
        assemble=build,
    )
    close()  # not after an error: leaving the group would wait for ranks that wait for us
    return 0


def open_rows(path: str) -> TokenDataset:
    """Open a dataset of rows.

    Raises:
        ConfigError: it is none.
    """
    dataset = TokenDataset(path, field="data.path")
    if not dataset.identity.packing:
        rule = "holds plain text, not conversations"
        raise ConfigError("data.path", path, rule, "Give the --output of 'mobilellama sft prepare'")
    return dataset


def require_fit(start: FinetuningStart, seq_len: int) -> None:
    """Raise ConfigError unless the model takes rows of this length."""
    if seq_len > start.model.max_seq_len:
        raise ConfigError(
            "init",
            f"a model of {start.model.max_seq_len} positions",
            f"is too short for the dataset's rows of {seq_len} tokens",
            f"Prepare with --seq_len {start.model.max_seq_len} or less",
        )


def finetuning(config: Config, start: FinetuningStart, data: TrainingData, world: World) -> Stage:
    """Return what finetuning trains, on packed rows, for so many epochs."""
    rows = sum(data.mixture.num_samples)
    by_epochs = config.train.max_steps is None
    num_samples = round(config.train.epochs * rows)
    if by_epochs and not num_samples:
        rule = f"comes to none of the {rows:,} rows of {config.data.path}"
        raise ConfigError("train.epochs", config.train.epochs, rule, "Give more")
    stage = language_stage(
        config,
        start.model,
        replace(data, end=num_samples if by_epochs else None),
        world,
        record=RunRecord(
            stage="sft",
            origin=start.origin,
            template=data.dataset.identity.packing.get("template"),
            lora=config.lora.adapters,
        ),
        weights=lambda model: with_new_adapters(
            start.require_weights(), shapes_of(model), config.train.seed
        ),
        adapt=partial(inject, config=config.lora),
    )
    return replace(stage, max_steps=config.train.max_steps)


def identity_of_run(
    config: Config, start: FinetuningStart, data: TrainingData, precision: str
) -> dict[str, Any]:
    """Return the fields that a resume must not change."""
    adapters = {"lora.alpha": config.lora.alpha, "lora.targets": config.lora.targets}
    return {
        "init.fingerprint": start.fingerprint,
        "lora.rank": config.lora.rank,
        **(adapters if config.lora.rank else {}),
        **identity_of(config, start.model, data, precision),
    }
