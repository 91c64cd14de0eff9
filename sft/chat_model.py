"""A Hugging Face chat folder's model: which one, where it runs, and what tells it from others."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mobilellama.config import ConfigError, DataError, did_you_mean, one_line

log = logging.getLogger(__name__)

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_REMEDY = "Give a folder of AutoModelForCausalLM and AutoTokenizer, as 'sft export' writes"


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which model, and where it runs."""

    model: str
    """A Hugging Face chat folder: what 'sft export' writes, or any other's."""
    template: str | None = None
    """A chat template's name or YAML file; None: the one in the folder."""
    device: str = "auto"
    """cpu, cuda, cuda:N; auto: the first GPU where one is seen."""
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of the weights; auto: bf16 on GPUs that have it, else fp16; on CPUs as stored, fp16 as
    fp32."""

    def __post_init__(self) -> None:
        folder = Path(self.model)
        if (folder / "adapter_config.json").is_file():
            remedy = "Make a whole model of it with 'mobilellama sft merge'"
            raise ConfigError("model", self.model, "is an adapter without its base", remedy)
        if not (folder / "config.json").is_file():
            rule = "has no config.json" if folder.is_dir() else "is not a folder"
            remedy = _REMEDY
            if (folder / "checkpoints").is_dir() or (folder / "manifest.json").is_file():
                remedy = "It looks like a run or a checkpoint: write it out with 'sft export'"
            raise ConfigError("model", self.model, rule, remedy)


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
    from transformers import AutoModelForCausalLM

    device, dtype = find_device(choice.device), find_dtype(choice)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            choice.model,
            local_files_only=True,
            trust_remote_code=False,
            dtype=dtype,
            output_loading_info=True,
        )
        model, info = loaded
        model = model.to(device)
    except torch.OutOfMemoryError as error:
        rule = f"does not fit into the memory of {device} ({one_line(error)})"
        raise ConfigError("model", choice.model, rule, "Use another device or dtype") from None
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


def find_device(name: str) -> Any:
    """Return the torch.device of a name.

    Raises:
        ConfigError: it is no device's name, or the device is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        remedy = f"Use auto, cpu, cuda or cuda:N{did_you_mean(name, ['cuda', 'cpu'])}"
        raise ConfigError("device", name, "is no device", remedy) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        rule = f"is not there: {torch.cuda.device_count()} GPUs are seen"
        raise ConfigError("device", name, rule, "Use auto or cpu")
    return device


def find_dtype(choice: ModelChoice) -> Any:
    """Return the torch.dtype to load in."""
    import torch

    if choice.dtype != "auto":
        return getattr(torch, DTYPES[choice.dtype])
    if find_device(choice.device).type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float16
    stored = getattr(read_config(choice.model), "dtype", None)
    if isinstance(stored, str):  # version 4 may leave it as it stands in config.json
        stored = getattr(torch, stored.removeprefix("torch."))
    return torch.float32 if stored in (None, torch.float16) else stored


def identify(folder: str) -> str:
    """Return a sha256 that tells this model from any other, wherever its folder lies.

    Of each weights file its size and 64 stretches of 4 KiB, evenly spaced: training changes
    every tensor, so that another checkpoint differs in all of them. The other files whole.
    """
    digest = hashlib.sha256()
    weights = (".safetensors", ".bin")
    texts = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer.model",
             "tokenizer_config.json", "chat_template.jinja")  # fmt: skip
    for path in sorted(Path(folder).iterdir()):
        if path.name in texts:
            digest.update(f"{path.name}\0".encode() + path.read_bytes())
        elif path.suffix in weights and path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name}\0{size}\0".encode())
            with open(path, "rb") as file:
                for i in range(64):
                    file.seek(size * i // 64)
                    digest.update(file.read(4096))
    return digest.hexdigest()


def unreadable(folder: str, what: str, error: Exception) -> ConfigError:
    """Return the error of a folder that another library cannot read, in its words."""
    return ConfigError("model", folder, f"{what} ({one_line(error).rstrip('.')})", _REMEDY)


def read_config(folder: str) -> Any:
    """Return transformers' config of a folder.

    Raises:
        ConfigError: it cannot be read.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # any of a dozen kinds, by what is wrong with the folder
        raise unreadable(folder, "cannot be read", error) from error
