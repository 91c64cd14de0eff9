"""Say what a finetuning needs before it starts. Nothing is written, and no GPU is needed.

  mobilellama sft plan --config mobilellama_1_4b_sft --base mobilellama_1_4b --rows 50000
      --gpus 8 --gpu a100-80g
  mobilellama sft plan ... --lora.rank 128

BASE is the model that is finetuned: a preset of 'pretrain run', or a YAML file such as the
config.yaml of its run. --rows is the number of rows that 'sft prepare' has made.

It prints what 'pretrain plan' prints, and by the same arithmetic. Activations are those of rows in
which every token is supervised: the loss takes less memory where fewer are. With LoRA the hours
count no gradients of frozen weights. The exit code is 1 if the run does not fit.
"""

import math
from dataclasses import dataclass, field, replace

from mobilellama import log as logs
from mobilellama.config import ConfigError, require_at_least
from mobilellama.pretrain.planning.adapters import require_targets
from mobilellama.pretrain.planning.machine import MachineConfig, PlannedRun, print_plan
from mobilellama.pretrain.planning.outline import PlannedTraining
from mobilellama.pretrain.planning.plan import model_of
from mobilellama.pretrain.sections import DataConfig, TrainConfig
from mobilellama.sft.config import Config as FinetuningConfig


@dataclass(frozen=True, kw_only=True)
class PlannedRows(DataConfig):
    """Rows that need not exist."""

    path: str = ""
    """Not used by a plan."""


@dataclass(frozen=True, kw_only=True)
class Config(FinetuningConfig, MachineConfig):
    """The run's own config, its base and length, and the machine."""

    base: str
    """The model that is finetuned: a preset of 'pretrain run', or a YAML file of its fields."""
    rows: int | None = None
    """Rows of the dataset. null: train.max_steps gives the length of the run."""
    seq_len: int = 2048
    """Tokens of a row."""
    init: str = ""
    """Not used by a plan."""
    run: PlannedRun = field(default_factory=PlannedRun)
    """Where the run lives: a plan does not look."""
    data: PlannedRows = field(default_factory=PlannedRows)
    """Which rows: a plan does not read them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("seq_len", self.seq_len, 1)
        if self.rows is not None:
            require_at_least("rows", self.rows, 1)
        if self.rows is None and self.train.max_steps is None:
            rule = "must be given: it and train.epochs are the length of the run"
            raise ConfigError("rows", None, rule, "Give --rows, or --train.max_steps")


def main(config: Config) -> int:
    """Print the plan; return 1 if the run does not fit."""
    logs.configure()
    model = replace(model_of(config.base), attention="per_document")
    if config.seq_len > model.max_seq_len:
        rule = f"exceeds the {model.max_seq_len:,} positions of {config.base}"
        raise ConfigError("seq_len", config.seq_len, rule, "Lower it")
    adapters = config.lora.adapters
    if adapters:
        require_targets(adapters)
    planned = PlannedTraining(
        model=model,
        train=planned_train(config),
        engine=config.engine,
        optimizer=config.optimizer,
        adapters=adapters,
    )
    return print_plan(planned, config, config.checkpoint)


def planned_train(config: Config) -> TrainConfig:
    """Return batch and length as pretraining's plan takes them."""
    train = config.train
    steps = train.max_steps
    if steps is None:
        assert config.rows is not None  # by __post_init__
        steps = max(1, math.ceil(round(train.epochs * config.rows) / train.global_batch_size))
    return TrainConfig(
        global_batch_size=train.global_batch_size,
        micro_batch_size=train.micro_batch_size,
        loss_chunk_tokens=train.loss_chunk_tokens,
        gradient_checkpointing=train.gradient_checkpointing,
        seq_len=config.seq_len,
        max_steps=steps,
    )
