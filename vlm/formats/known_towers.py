"""Published vision towers whose configs are known: what their weights do not show.

Sources: the config.json and preprocessor_config.json that each name has on the Hugging Face Hub.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mobilellama.vlm.data.images import CLIP_MEAN, CLIP_STD, SIGLIP_HALF


@dataclass(frozen=True, kw_only=True)
class KnownTower:
    """A tower by its name on the Hub."""

    name: str
    config: Mapping[str, object]
    """Its config.json, as far as it decides what is computed."""
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD


def _clip(name: str, **sizes: object) -> KnownTower:
    given = {"num_channels": 3, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    return KnownTower(name=name, config={"model_type": "clip_vision_model", **given, **sizes})


_BASE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "projection_dim": 512,
}
_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
}
KNOWN_TOWERS = (
    _clip("openai/clip-vit-large-patch14-336", **_LARGE, image_size=336),
    _clip("openai/clip-vit-large-patch14", **_LARGE, image_size=224),
    _clip("openai/clip-vit-base-patch16", **_BASE, patch_size=16),
    _clip("openai/clip-vit-base-patch32", **_BASE, patch_size=32),
    _clip(
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
        hidden_act="gelu",
        projection_dim=1024,
    ),
    KnownTower(
        name="google/siglip-so400m-patch14-384",
        config={
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "num_channels": 3,
            "image_size": 384,
            "patch_size": 14,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
        },
        mean=SIGLIP_HALF,
        std=SIGLIP_HALF,
    ),
)


def find_known(name: str | None, shown: Mapping[str, object]) -> KnownTower | None:
    """Return the known tower of a name whose sizes are also those of the weights.

    Args:
        name: as mm_vision_tower has it; of a copy elsewhere (OWNER/NAME, /PATH/NAME) the last part
            counts, and it must be the whole name.
        shown: what the weights show of the config.
    """
    last = (name or "").rstrip("/").rpartition("/")[2]
    for known in KNOWN_TOWERS:
        if known.name.rpartition("/")[2] == last:
            fits = all(known.config[key] == value for key, value in shown.items())
            return known if fits else None
    return None
