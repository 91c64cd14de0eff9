"""The fields of 'sft merge'; they are read without torch."""

from dataclasses import dataclass

from mobilellama.config import ConfigError
from mobilellama.pretrain.hf.export_config import OutputConfig


@dataclass(frozen=True, kw_only=True)
class Config(OutputConfig):
    """Fields of 'sft merge': RUN, or --adapter and --base."""

    checkpoint: str | None = None
    """A LoRA run's folder, whose newest checkpoint is taken, or a checkpoint's own."""
    adapter: str | None = None
    """A folder with adapter_config.json, of 'sft export' or peft, or its name on the Hub."""
    base: str | None = None
    """The Hugging Face folder that the adapter is added to, or its name on the Hub (OWNER/NAME or
    OWNER/NAME@REVISION). Of a RUN its name is only written on the card, for the run holds the
    base's weights itself."""
    license: str | None = None
    """The Hub's name of the weights' licence, for the model card: the base's, as a rule; null names
    none."""
    check: bool = True
    """Compare with base plus adapter. It holds one fp32 copy of the model at a time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.checkpoint is None) == (self.adapter is None):
            rule = "must be given, or adapter and base, and not both"
            remedy = "Give RUN, or --adapter FOLDER --base FOLDER"
            raise ConfigError("checkpoint", self.checkpoint, rule, remedy)
        if self.adapter is not None and self.base is None:
            rule = f"must be given: {self.adapter} holds no weights of its base"
            remedy = "Give the folder of the adapter's base model, or its name on the Hub"
            raise ConfigError("base", "null", rule, remedy)
