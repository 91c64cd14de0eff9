"""What every export is told, and the fields of 'pretrain export'; they are read without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mobilellama.config import ConfigError, require_at_least
from mobilellama.pretrain.hf.hub import require_repo_id

CHECKED_BELOW_PARAMETERS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """The folder that is written, and how."""

    output: str
    """The folder to write. It must be missing or empty."""
    dtype: Literal["bf16", "fp16", "fp32"] | None = None
    """Dtype of the weights. null: for a run bf16, for a folder its own. A run computed forward and
    backward in bf16. fp32 keeps every value of any run or folder exactly. bf16 and fp16 round wider
    values, and fp16 does not have the range of fp32."""
    max_shard_size_gb: float = 5.0
    """Largest weight file, in 1e9 bytes. A larger parameter gets its own file."""
    name: str | None = None
    """The title of the model card. null: the name of the repository or the folder."""
    license: str | None = None
    """The Hub's name of the weights' licence, for the model card. null: none is named."""

    def __post_init__(self) -> None:
        require_at_least("max_shard_size_gb", self.max_shard_size_gb, 1e-6)

    @property
    def weights_dtype(self) -> str:
        """The dtype, with a run's default resolved."""
        return self.dtype or "bf16"


@dataclass(frozen=True, kw_only=True)
class ExportConfig(OutputConfig):
    """The export of a run's checkpoint."""

    checkpoint: str
    """A run's folder, for its newest checkpoint, or the folder of one checkpoint."""
    tokenizer: str | None = None
    """The dataset's tokenizer: a sentencepiece model, a Hugging Face folder, or its name on the
    Hub. null: the run's own copy."""
    check: bool | None = None
    """Load the folder with transformers and compare logits and ids with ours; None does so below
    1e9 parameters, since it holds two fp32 copies of the model, one after the other."""
    push: str | None = None
    """USER/NAME on the Hugging Face Hub to push to; None does not push."""
    private: bool = False
    """Make that repository private."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.push is not None:
            require_repo_id("push", self.push)
        elif self.private:
            raise ConfigError("private", "true", "nothing is pushed", "Give --push USER/NAME too")

    @property
    def title(self) -> str:
        """The model card's title, with the default resolved."""
        return self.name or self.push or Path(self.output).resolve().name

    def checks(self, parameters: int) -> bool:
        """Whether a model of so many parameters is compared with transformers."""
        return self.check or (self.check is None and parameters < CHECKED_BELOW_PARAMETERS)


@dataclass(frozen=True, kw_only=True)
class Config(ExportConfig):
    """Fields of 'pretrain export'."""

    add_bos: bool = False
    """Whether the exported tokenizer puts <s> first. A base model has never seen <s>."""
