"""What of the model trains, and which values its parameters begin with."""

from typing import Any

import torch
from torch import Tensor, nn

from mobilellama.sft.lora import (
    LoraConfig,
    base_name,
    init_lora_parameter,
    inject,
    is_adapter,
    with_targets,
)
from mobilellama.vlm.config import Config
from mobilellama.vlm.model import LANGUAGE, PROJECTOR, VisionLanguageModel
from mobilellama.vlm.projectors import build_projector, init_projector_parameter
from mobilellama.vlm.start import Start


def chosen_lora(config: Config, start: Start) -> LoraConfig:
    """Return which layers get adapters, by name.

    Raises:
        ConfigError: the language model does not have what the config adapts.
    """
    if config.lora.rank is None:
        return config.lora
    with torch.device("meta"):
        model = VisionLanguageModel(start.architecture)
    return with_targets(config.lora, model, prefix=LANGUAGE, before=start.lora)


def tune(model: nn.Module, config: Config) -> None:
    """Freeze what does not train, and put adapters where they are asked for."""
    if not config.train.language_model:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(PROJECTOR))
        return
    inject(model, config.lora, prefix=LANGUAGE)
    if config.lora.rank is not None:  # which froze all but the adapters
        for name, parameter in model.named_parameters():
            if name.startswith(PROJECTOR):
                parameter.requires_grad_(True)


def first_values(start: Start, config: Config) -> dict[str, Any]:
    """Return ``Stage``'s fields that say which values parameters begin with."""
    architecture = start.architecture
    with torch.device("meta"):
        projector = build_projector(
            architecture.projector,
            vision_width=architecture.vision_width,
            width=architecture.width,
            rules=architecture.rules,
        )

    def initial(name: str, shape: torch.Size) -> Tensor:
        if is_adapter(name):
            return init_lora_parameter(name, shape, config.train.seed)
        part = start.part_of(name)
        if part is None:
            plain = name.removeprefix(PROJECTOR)
            return init_projector_parameter(projector, plain, config.train.seed)
        return part.parameter(base_name(name), shape)

    def stored(name: str, shape: torch.Size) -> Tensor:
        part = start.part_of(name)
        assert part is not None, f"{name} does not train and has no value"
        return part.stored(base_name(name), shape)

    return {"initial": initial, "stored": stored}
