"""The model of a Hugging Face folder, or of a run's checkpoint: on its device, in its dtype."""

import logging
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

from mobilellama.config import ConfigError, UserError, one_line
from mobilellama.cpus import use_cpu_budget
from mobilellama.files.pretrained import (
    build_causal_model,
    load_causal_model,
    load_config,
    moved,
)
from mobilellama.pretrain.hf.device import (
    DTYPE_NAMES,
    DtypeName,
    Placement,
    choose_dtype,
    find_device,
)

if TYPE_CHECKING:  # they import torch, which --help does without
    from transformers import PretrainedConfig, PreTrainedModel

    from mobilellama.pretrain.sections import ModelConfig
    from mobilellama.pretrain.weight_source import WeightSource
    from mobilellama.tokenizers.text_tokenizer import TextTokenizer

log = logging.getLogger(__name__)

_REMEDY = "Give a folder of AutoModelForCausalLM and AutoTokenizer, as an export is"


@dataclass(frozen=True, kw_only=True)
class HfChoice(Placement):
    """Which model, and where it runs."""

    model: str
    """A Hugging Face folder, or a run."""


def quieten() -> None:
    """Keep transformers' bars and hints from between our lines."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def load_model(choice: HfChoice) -> "PreTrainedModel":
    """Return the folder's model on its device, in evaluation mode.

    Raises:
        ConfigError: the device is not there, or the folder cannot be read.
        DataError: weights are missing, or of another shape than config.json says.
    """
    import torch

    device, dtype = find_device(choice.device), find_dtype(choice)
    try:
        model = moved(load_causal_model(choice.model, dtype=dtype), device)
    except torch.OutOfMemoryError as error:
        rule = f"does not fit into the memory of {device} ({one_line(error)})"
        raise ConfigError("model", choice.model, rule, "Use another device or dtype") from None
    except UserError:
        raise
    except Exception as error:  # any of a dozen kinds, by what is wrong with the folder
        raise unreadable(choice.model, "cannot be read", error) from error
    return _ready(model, choice)


def build_model(
    choice: HfChoice, source: "WeightSource", model: "ModelConfig", tokenizer: "TextTokenizer"
) -> "PreTrainedModel":
    """Return a run's model as transformers' LLaMA, on its device, in evaluation mode.

    Args:
        choice: dtype "auto" is bf16 (or fp16) on GPUs, and the masters' fp32 on CPUs.
        source: is read in fp32.
        model: the architecture.
        tokenizer: whose special ids the config states.

    Raises:
        ConfigError: the device is not there, or a parameter does not fit the dtype.
        DataError: a parameter is not finite, or cannot be read.
    """
    import torch
    from transformers import LlamaConfig

    from mobilellama.pretrain.hf.config import llama_config
    from mobilellama.pretrain.hf.weights import DTYPES, cast

    device, short = find_device(choice.device), find_run_dtype(choice)
    config = LlamaConfig(**llama_config(model, tokenizer, short))
    try:
        with torch.device(device):
            built = build_causal_model(config, dtype=DTYPES[short])
    except torch.OutOfMemoryError as error:
        rule = f"does not fit into the memory of {device} ({one_line(error)})"
        raise ConfigError("model", choice.model, rule, "Use another device or dtype") from None
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            parameter.copy_(cast(name, source.parameter(name), DTYPES[short]))
    return _ready(built, choice)


def _ready(model: "PreTrainedModel", choice: HfChoice) -> "PreTrainedModel":
    use_cpu_budget()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    name = str(model.dtype).removeprefix("torch.")
    log.info("%s: %s parameters in %s on %s", choice.model, f"{parameters:,}", name, model.device)
    return model.eval()


def unreadable(folder: str, what: str, error: Exception) -> ConfigError:
    """Return the error of a folder that another library cannot read, in its words."""
    return ConfigError("model", folder, f"{what} ({one_line(error).rstrip('.')})", _REMEDY)


def read_config(folder: str) -> "PretrainedConfig":
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


def find_dtype(choice: HfChoice) -> str:
    """Return the name of the dtype to load in, as transformers takes it."""
    device = find_device(choice.device)
    short = choose_dtype(choice.dtype, device, lambda: read_config(choice.model), prefer="speed")
    return DTYPE_NAMES[short]


def find_run_dtype(choice: HfChoice) -> DtypeName:
    """Return the short name of the dtype to load a run in. Its masters are fp32."""
    masters = SimpleNamespace(dtype="float32")
    device = find_device(choice.device)
    return choose_dtype(choice.dtype, device, lambda: masters, prefer="speed")
