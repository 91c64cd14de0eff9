"""Say what a run needs before it starts. Nothing is written, and no GPU is needed.

  mobilellama pretrain plan --config mobilellama_1_4b --gpus 160 --gpu a100-80g
  mobilellama pretrain plan --config mobilellama_2_7b --gpus 8 --gpu h100 --json true

It prints the memory of one GPU by kind, the largest micro-batch that fits, the communication of a
step, the hours of the run, the stall of a save, and the disk space of the checkpoints.

All of it is arithmetic. The bytes of weights, gradients, masters and optimizer state are those that
the engines hold. Activations are those of layers that are not compiled; compiled layers keep less.
The hours follow from --mfu. The exit code is 1 if the run does not fit.
"""

from dataclasses import dataclass, field
from pathlib import Path

from mobilellama import log as logs
from mobilellama.commandline.parser import parse_config
from mobilellama.files.presets import find_preset
from mobilellama.pretrain.config import Config as RunConfigOfPretraining
from mobilellama.pretrain.planning.machine import MachineConfig, PlannedRun, print_plan
from mobilellama.pretrain.planning.outline import PlannedTraining
from mobilellama.pretrain.sections import MixtureConfig, ModelConfig


@dataclass(frozen=True, kw_only=True)
class PlannedData(MixtureConfig):
    """Data that need not exist."""

    path: str = ""
    """Not used by a plan."""


@dataclass(frozen=True, kw_only=True)
class Config(RunConfigOfPretraining, MachineConfig):
    """The run's own config, and the machine."""

    run: PlannedRun = field(default_factory=PlannedRun)
    """Where the run lives: a plan does not look."""
    data: PlannedData = field(default_factory=PlannedData)
    """Which samples: a plan does not read them."""

    def __post_init__(self) -> None:
        RunConfigOfPretraining.__post_init__(self)
        MachineConfig.__post_init__(self)


def main(config: Config) -> int:
    """Print the plan; return 1 if the run does not fit."""
    logs.configure()
    planned = PlannedTraining(
        model=config.model,
        train=config.train,
        engine=config.engine,
        optimizer=config.optimizer,
    )
    return print_plan(planned, config, config.checkpoint)


def model_of(base: str) -> ModelConfig:
    """Return the model of a preset or a YAML file.

    Raises:
        ConfigError: it is neither.
    """
    presets = Path(__file__).parent.parent / "presets"  # as in main.py, which imports no verb
    path = find_preset(base, presets, "base")
    words = ["--config", str(path), "--gpus", "1", "--gpu", "h100"]
    config = parse_config(
        Config, words, prog="mobilellama pretrain plan", about="", presets=presets
    )
    return config.model
