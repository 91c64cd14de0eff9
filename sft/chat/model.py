"""The model of a Hugging Face chat folder: on its device, in its dtype."""

import logging
from typing import Any

from mobilellama.config import ConfigError, DataError, UserError, one_line
from mobilellama.files.pretrained import load_causal_model
from mobilellama.pretrain.hf.device import DTYPE_NAMES, choose_dtype, find_device
from mobilellama.sft.chat.model_choice import ModelChoice, read_config, unreadable

log = logging.getLogger(__name__)


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
