"""Vision towers of transformers, and the features that projectors take from them.

The features are a hidden state before the last (``feature_layer``), without the class token:
what LLaVA takes of CLIP (arXiv 2304.08485, section 4.1). The layers above it are not computed.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from torch import Tensor

from mobilellama.config import ConfigError

if TYPE_CHECKING:
    from transformers import CLIPVisionModel, SiglipVisionModel

_CLIP, _SIGLIP = "clip_vision_model", "siglip_vision_model"


def build_tower(config: Mapping[str, object]) -> "CLIPVisionModel | SiglipVisionModel":
    """Build the tower that a config.json describes, its weights not initialised.

    Raises:
        ConfigError: it is none of the kinds that are known.
    """
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModel,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    kind = config.get("model_type")
    if kind == _CLIP:
        return CLIPVisionModel(CLIPVisionConfig.from_dict(dict(config)))
    if kind == _SIGLIP:
        return SiglipVisionModel(SiglipVisionConfig.from_dict(dict(config)))
    rule = f"must be {_CLIP} or {_SIGLIP}"
    raise ConfigError("vision: model_type", kind, rule, "Give the folder of such a tower")


def patch_features(
    tower: "CLIPVisionModel | SiglipVisionModel", pixel_values: Tensor, feature_layer: int
) -> Tensor:
    """Return a hidden state of each patch.

    Args:
        tower: what ``build_tower`` made.
        pixel_values: (B, 3, S, S), normalised.
        feature_layer: index of the hidden state among those that transformers gives, from -1
            for the last layer's output.

    Returns:
        (B, patches, width of the tower).
    """
    hidden_BPD = tower.embeddings(pixel_values)
    first_norm = getattr(tower, "pre_layrnorm", None)  # of CLIP alone, in its own spelling
    has_class_token = first_norm is not None
    if first_norm is not None:
        hidden_BPD = first_norm(hidden_BPD)
    layers = tower.encoder.layers
    for layer in layers[: len(layers) + 1 + feature_layer]:
        hidden_BPD = layer(hidden_BPD, attention_mask=None)
    return hidden_BPD[:, 1:] if has_class_token else hidden_BPD


def tower_config(values: Mapping[str, object]) -> dict[str, object]:
    """Return the tower's part of a config.json: of a whole CLIP model its vision_config."""
    kind = values.get("model_type")
    if kind in ("clip", "siglip"):
        return {
            "model_type": f"{kind}_vision_model",
            **cast("dict[str, object]", values.get("vision_config") or {}),
        }
    return dict(values)
