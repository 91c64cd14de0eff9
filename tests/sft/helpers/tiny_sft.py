"""Runs of 'sft run' on a model of two layers: the dataset, the command line, a run on one rank."""

from pathlib import Path
from typing import Any

from mobilellama.sft.main import main
from tests.sft.helpers.conversations import make_conversations, write_sharegpt

TINY_SFT: dict[str, Any] = {
    "distributed.accelerator": "cpu",
    "engine.kind": "ddp",
    "engine.precision": "fp32",
    "train.global_batch_size": 4,
    "train.micro_batch_size": 2,
    "train.max_steps": 4,
    "optimizer.learning_rate": 1e-2,
    "metrics.every_steps": 1,
    "checkpoint.every_steps": 100,
    "validation.every_steps": 4,
    "validation.samples_per_subset": 2,
}


def prepare_tiny(folder: Path, tokenizer: Path, **fields: Any) -> Path:
    """Make a dataset of short conversations in rows of 128 tokens, and return it."""
    data = write_sharegpt(folder / "chats.json", make_conversations(60, scale=0.08))
    values = {"data.path": data, "tokenizer": tokenizer, "output": folder / "dataset"}
    values |= {"seq_len": 128, "heldout_share": 0.1, "workers": 1} | fields
    assert main(["prepare", *_arguments(values)]) == 0
    return folder / "dataset"


def finetune_tiny(
    init: Path, dataset: Path, run: Path, fields: dict[str, Any] | None = None
) -> int:
    """Run one attempt in this process (a rank)."""
    values = {"init": init, "data.path": dataset, "run.folder": run} | TINY_SFT | (fields or {})
    return main(["run", *_arguments(values)])


def _arguments(values: dict[str, Any]) -> list[str]:
    pairs = [(f"--{name}", "null" if v is None else str(v)) for name, v in values.items()]
    return [argument for pair in pairs for argument in pair]
