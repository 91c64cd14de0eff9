"""Which Hugging Face chat folder answers, and where it runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellama.config import ConfigError, UserError, one_line
from mobilellama.files.pretrained import load_config
from mobilellama.pretrain.hf.device import Placement
from mobilellama.stages import require_language_model

_REMEDY = "Give a folder of AutoModelForCausalLM and AutoTokenizer, as 'sft export' writes"


@dataclass(frozen=True, kw_only=True)
class ModelChoice(Placement):
    """Which model, and where it runs."""

    model: str
    """A Hugging Face chat folder: what 'sft export' writes, or any other's."""
    template: str | None = None
    """A chat template's name or YAML file; None: the one in the folder."""
    tokenizer_as_is: bool = False
    """Take the ids that the folder's tokenizer.json gives, although the model that it was made from
    gives others; false corrects or refuses such a folder (docs/finetuning.md)."""

    def __post_init__(self) -> None:
        folder = Path(self.model)
        if (folder / "adapter_config.json").is_file():
            remedy = "Make a whole model of it with 'mobilellama sft merge'"
            raise ConfigError("model", self.model, "is an adapter without its base", remedy)
        if not (folder / "config.json").is_file():
            rule = "has no config.json" if folder.is_dir() else "is not a folder"
            remedy = _REMEDY
            if (folder / "checkpoints").is_dir() or (folder / "manifest.json").is_file():
                exports = "'sft export', or of 'vlm run' with 'vlm export'"
                remedy = f"It looks like a run or a checkpoint: write it out with {exports}"
            raise ConfigError("model", self.model, rule, remedy)
        remedy = "Ask it with 'mobilellama vlm chat' or 'vlm generate'"
        require_language_model(folder, field="model", remedy=remedy)


def unreadable(folder: str, what: str, error: Exception) -> ConfigError:
    """Return the error of a folder that another library cannot read, in its words."""
    return ConfigError("model", folder, f"{what} ({one_line(error).rstrip('.')})", _REMEDY)


def read_config(folder: str) -> Any:
    """Return transformers' config of a folder.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return load_config(folder)
    except UserError:
        raise
    except Exception as error:  # any of a dozen kinds, by what is wrong with the folder
        raise unreadable(folder, "cannot be read", error) from error
