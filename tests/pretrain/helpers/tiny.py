"""A model of 200,000 parameters and the command lines that train it in a second."""

from pathlib import Path
from typing import Any

from mobilellama.pretrain.main import main

TINY: dict[str, Any] = {
    "distributed.accelerator": "cpu",
    "model.vocab_size": 800,
    "model.d_model": 64,
    "model.n_layers": 2,
    "model.n_heads": 2,
    "model.d_ff": 128,
    "model.max_seq_len": 32,
    "train.seq_len": 32,
    "train.global_batch_size": 8,
    "train.micro_batch_size": 2,
    "train.max_steps": 8,
    "optimizer.learning_rate": 1e-2,
    "schedule.warmup_steps": 2,
    "metrics.every_steps": 1,
    "checkpoint.every_steps": 100,
    "checkpoint.keep_every_steps": None,
    "validation.every_steps": 4,
    "validation.samples_per_subset": 4,
}


def tiny_argv(dataset: Path, run: Path, fields: dict[str, Any] | None = None) -> list[str]:
    """Return the arguments of 'mobilellama pretrain' that train the tiny model."""
    values = {"data.path": dataset, "run.folder": run} | TINY | (fields or {})
    pairs = [(f"--{n}", "null" if v is None else str(v)) for n, v in values.items()]
    return ["run", *[argument for pair in pairs for argument in pair]]


def train_tiny(dataset: Path, run: Path, fields: dict[str, Any] | None = None) -> int:
    """Run one attempt in this process (a rank)."""
    return main(tiny_argv(dataset, run, fields))
