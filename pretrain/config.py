"""The sections that every stage's run has, and the whole config of pretraining.

No section imports torch, so that a command line is read without it. A section lies beside the
code that reads it; where that imports torch, in sections.py or in its room's config.py.
"""

from dataclasses import dataclass, field

from mobilellama.config import ConfigError, require_at_least
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.monitoring.config import MetricsConfig, WatchdogConfig
from mobilellama.pretrain.monitoring.loss_watch import LossWatchConfig
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.schedule import ScheduleConfig
from mobilellama.pretrain.sections import (
    BatchConfig,
    DataConfig,
    MixtureConfig,
    ModelConfig,
    TrainConfig,
    ValidationConfig,
)
from mobilellama.pretrain.state.config import CheckpointConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run lives."""

    folder: str
    """The run's folder. A run with checkpoints is resumed."""
    max_hours: float | None = None
    """Save and stop after so many hours. null: no limit."""

    def __post_init__(self) -> None:
        if self.max_hours is not None:
            require_at_least("run.max_hours", self.max_hours, 0)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What a run of any stage is told."""

    run: RunConfig
    """Where the run lives."""
    data: DataConfig
    """Which samples, in which order."""
    train: BatchConfig
    """Batch, and how far."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer and its constants."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning rate over the steps."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """The engine and its precision."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When to save, and which checkpoints to keep."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Loss on what is held out."""
    loss_watch: LossWatchConfig = field(default_factory=LossWatchConfig)
    """Spikes and skipped steps."""
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    """What is written, how often."""
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    """When ranks that hang are ended."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """Where the processes are."""


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Pretraining."""

    data: MixtureConfig
    """Which samples, in which order."""
    init: str | None = None
    """Weights to begin with: of a run's folder or checkpoint ('pretrain run', 'sft run'), an
    export, a Hugging Face folder of Llama's shape, or its name on the Hub, OWNER/NAME or
    OWNER/NAME@REVISION. Step, schedule and optimizer state begin anew. A resume does not read it.
    None draws new weights."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The architecture."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Batch, sequence length and number of steps."""

    def __post_init__(self) -> None:
        if self.train.seq_len > self.model.max_seq_len:
            raise ConfigError(
                "train.seq_len",
                self.train.seq_len,
                f"must not exceed model.max_seq_len = {self.model.max_seq_len}",
                "Lower it or raise model.max_seq_len",
            )
