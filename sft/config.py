"""The whole config of finetuning: pretraining's sections, with finetuning's values."""

from dataclasses import dataclass, field

from mobilellama.config import ConfigError, require_at_least
from mobilellama.pretrain.config import StageConfig
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.schedule import ScheduleConfig
from mobilellama.pretrain.sections import BatchConfig
from mobilellama.sft.lora_config import LoraConfig

_MOST_EPOCHS = 10_000


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(BatchConfig):
    """Batch and number of epochs or steps."""

    global_batch_size: int = 128
    """Rows per optimizer step over all ranks."""
    epochs: float = 3.0
    """How often the run uses each row. The last step may have fewer rows."""
    max_steps: int | None = None
    """Optimizer steps of the run, instead of epochs. None: train.epochs decides."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.epochs <= _MOST_EPOCHS:  # NaN is not, either
            rule = f"must be above 0 and at most {_MOST_EPOCHS:,}"
            raise ConfigError("train.epochs", self.epochs, rule, "Give e.g. 3")
        if self.max_steps is not None:
            require_at_least("train.max_steps", self.max_steps, 1)


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Finetuning on conversations."""

    init: str
    """The model to start from: a Hugging Face folder of Llama's shape, its name on the Hub
    (OWNER/NAME or OWNER/NAME@REVISION), or a run or checkpoint of 'pretrain run' or 'sft run'. A
    resume does not read it."""
    train: FinetuneConfig = field(default_factory=FinetuneConfig)
    """Batch and number of epochs or steps."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Whether all weights train, or only low-rank updates of some."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=2e-5, beta2=0.999, weight_decay=0.0)
    )
    """AdamW."""
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(warmup_ratio=0.04, min_lr_ratio=0.0)
    )
    """The learning rate over the steps."""
