"""A Hugging Face chat folder's model: which one, where it runs, and what tells it from others."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mobilellama.config import ConfigError, DataError, UserError, one_line
from mobilellama.files.pretrained import load_causal_model, load_config
from mobilellama.pretrain.hf.device import DTYPE_NAMES, choose_dtype, find_device
from mobilellama.stages import require_language_model

log = logging.getLogger(__name__)

# All that decides an answer beside the weights.
_DECISIVE = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json", "template.yaml",
)  # fmt: skip
_REMEDY = "Give a folder of AutoModelForCausalLM and AutoTokenizer, as 'sft export' writes"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a model runs, and in which dtype."""

    device: str = "auto"
    """cpu, cuda, cuda:N; auto: the first GPU where one is seen."""
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of the weights; auto: bf16 on GPUs that have it, else fp16; on CPUs as stored, fp16 as
    fp32."""


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


def quieten() -> None:
    """Keep transformers' bars and hints from between our lines."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def load_model(choice: ModelChoice) -> Any:
    """Return the folder's model on its device, in evaluation mode.

    Raises:
        ConfigError: the device is not there, or the folder cannot be read.
        DataError: weights are missing, or of another shape than config.json says.
    """
    import torch

    device, dtype = find_device(choice.device), find_dtype(choice)
    try:
        model, info = load_causal_model(choice.model, dtype=dtype, output_loading_info=True)
        model = model.to(device)
    except torch.OutOfMemoryError as error:
        rule = f"does not fit into the memory of {device} ({one_line(error)})"
        raise ConfigError("model", choice.model, rule, "Use another device or dtype") from None
    except UserError:
        raise
    except Exception as error:  # any of a dozen kinds, by what is wrong with the folder
        raise unreadable(choice.model, "cannot be read", error) from error
    # transformers only warns, and gives such weights random values.
    wrong = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if wrong:
        raise DataError(
            f"{choice.model}: {len(wrong)} weights are missing, or not of config.json's shape "
            f"({', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''}); copy the folder again"
        )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    name = str(model.dtype).removeprefix("torch.")
    log.info("%s: %s parameters in %s on %s", choice.model, f"{parameters:,}", name, device)
    return model.eval()


def find_dtype(choice: ModelChoice) -> str:
    """Return the name of the dtype to load in, as transformers takes it."""
    device = find_device(choice.device)
    short = choose_dtype(choice.dtype, device, lambda: read_config(choice.model), prefer="speed")
    return DTYPE_NAMES[short]


def identify(folder: str) -> str:
    """Return a sha256 that tells this model from any other, wherever its folder lies.

    Of each weights file its size and 64 blocks, evenly spaced, the first and the last bytes
    among them: training changes every tensor, so that another checkpoint differs in all of them.
    The other files whole.
    """
    from mobilellama.pretrain.hf.folder import sampled_sha256

    paths = sorted(path for path in Path(folder).iterdir() if path.is_file())
    return sampled_sha256(
        [path for path in paths if path.name in _DECISIVE],
        [path for path in paths if path.suffix in (".safetensors", ".bin")],
    )


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
