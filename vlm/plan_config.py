"""The config of 'vlm plan'; it is read without torch."""

from dataclasses import dataclass, field

from mobilellama.config import ConfigError, require_at_least
from mobilellama.pretrain.planning.machine import MachineConfig, PlannedRun
from mobilellama.vlm.config import Config as TuningConfig
from mobilellama.vlm.config import ImageTextData


@dataclass(frozen=True, kw_only=True)
class PlannedSamples(ImageTextData):
    """Samples that need not exist."""

    path: str = ""
    """Not used by a plan."""
    images: str = ""
    """Not used by a plan."""


@dataclass(frozen=True, kw_only=True)
class Config(TuningConfig, MachineConfig):
    """The run's own config, its models and length, and the machine."""

    base: str
    """The language model: a preset of 'pretrain run', or a YAML file of its fields."""
    tower: str = "openai/clip-vit-large-patch14-336"
    """The vision tower, by its name on the Hub. Nothing is downloaded."""
    samples: int | None = None
    """Samples of the data. null: train.max_steps gives the length of the run."""
    row_tokens: int | None = None
    """Tokens of a row, those of its image included. null: train.seq_len, the most that a row can
    have."""
    init: str = ""
    """Not used by a plan."""
    run: PlannedRun = field(default_factory=PlannedRun)
    """Where the run lives: a plan does not look."""
    data: PlannedSamples = field(default_factory=PlannedSamples)
    """Which samples: a plan does not read them."""

    def __post_init__(self) -> None:
        TuningConfig.__post_init__(self)
        MachineConfig.__post_init__(self)
        if self.row_tokens is not None:
            require_at_least("row_tokens", self.row_tokens, 1)
        if self.samples is not None:
            require_at_least("samples", self.samples, 1)
        elif self.train.max_steps is None:
            rule = "must be given: it and train.epochs are the length of the run"
            raise ConfigError("samples", None, rule, "Give --samples, or --train.max_steps")
        if self.projector.kind is None:
            rule = "must be given: a plan opens no model that has one"
            raise ConfigError("projector.kind", None, rule, "Give --projector.kind")
