"""What of the model trains, and which values its parameters begin with."""

import torch
from torch import Tensor, nn

from mobilellama.pretrain.weight_source import (
    DrawnWeights,
    LayeredWeights,
    WeightSource,
    shapes_of,
)
from mobilellama.sft.lora import inject, with_new_adapters, with_targets
from mobilellama.sft.lora_config import LoraConfig
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.config import Config
from mobilellama.vlm.model import LANGUAGE, PROJECTOR, VisionLanguageModel
from mobilellama.vlm.projectors.projector import init_projector_parameter
from mobilellama.vlm.projectors.table import build_projector
from mobilellama.vlm.start import VisionLanguageStart


def chosen_lora(config: Config, start: VisionLanguageStart) -> LoraConfig:
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


def first_weights(start: VisionLanguageStart, config: Config, model: nn.Module) -> WeightSource:
    """Return the first values of a model's parameters, projector and adapters included.

    Args:
        start: what the run starts from; a projector that it lacks is drawn.
        config: whose seed is taken.
        model: as ``tune`` left it.
    """
    weights, seed = start.require_weights(), config.train.seed
    if not any(name.startswith(PROJECTOR) for name in weights.names()):
        weights = LayeredWeights(weights, _new_projector(start.architecture, seed))
    return with_new_adapters(weights, shapes_of(model), seed)


def _new_projector(architecture: Architecture, seed: int) -> WeightSource:
    with torch.device("meta"):
        projector = build_projector(
            architecture.projector,
            vision_width=architecture.vision_width,
            width=architecture.width,
            rules=architecture.rules,
        )

    def draw(name: str, shape: torch.Size, seed: int) -> Tensor:
        del shape
        return init_projector_parameter(projector, name.removeprefix(PROJECTOR), seed)

    shapes = {PROJECTOR + name: shape for name, shape in shapes_of(projector).items()}
    return DrawnWeights(shapes, draw, seed)
