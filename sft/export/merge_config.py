"""The fields of 'sft merge'; they are read without torch."""

from dataclasses import dataclass

from mobilellama.config import ConfigError
from mobilellama.pretrain.hf.export_config import OutputConfig


@dataclass(frozen=True, kw_only=True)
class Config(OutputConfig):
    """Fields of 'sft merge': RUN, or --adapter and --base."""

    checkpoint: str | None = None
    """The folder of a LoRA run, for its newest checkpoint, or the folder of one checkpoint."""
    adapter: str | None = None
    """A folder with adapter_config.json, of 'sft export' or peft, or its name on the Hub."""
    base: str | None = None
    """The Hugging Face folder that the adapter is added to, or its name on the Hub (OWNER/NAME or
    OWNER/NAME@REVISION). A RUN has the weights of its base: then only the name is used, for the
    model card."""
    license: str | None = None
    """The Hub's name of the weights' licence, for the model card. In most cases it is that of the
    base. null: the card names no licence."""
    check: bool = True
    """Compare the result with base plus adapter. This needs memory for one fp32 model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.checkpoint is None) == (self.adapter is None):
            rule = "give either it, or adapter and base"
            remedy = "Give RUN, or --adapter FOLDER --base FOLDER"
            raise ConfigError("checkpoint", self.checkpoint, rule, remedy)
        if self.adapter is not None and self.base is None:
            rule = f"must be given: {self.adapter} holds no weights of its base"
            remedy = "Give the folder of the adapter's base model, or its name on the Hub"
            raise ConfigError("base", "null", rule, remedy)
