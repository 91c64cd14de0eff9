"""Features of CLIP and SigLIP equal transformers' own hidden states."""

from typing import Any

import pytest
import torch

from mobilellama.config import ConfigError
from mobilellama.vlm.towers import build_tower, patch_features, tower_config
from tests.vlm.helpers.tiny_vlm import VISION

KINDS = ["clip_vision_model", "siglip_vision_model"]
PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def tower(kind: str, **fields: Any) -> Any:
    torch.manual_seed(1)
    return build_tower({"model_type": kind, **VISION, **fields}).eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("feature_layer", [-1, -2, -3, -4])
def test_features_are_transformers_hidden_states_without_the_class_token(
    kind: str, feature_layer: int
) -> None:
    made = tower(kind)
    with torch.no_grad():
        expected = made(PIXELS, output_hidden_states=True).hidden_states[feature_layer]
        found = patch_features(made, PIXELS, feature_layer)
    if kind == KINDS[0]:
        assert expected.shape == (2, 17, 32)  # 16 patches after the class token
        expected = expected[:, 1:]
    assert found.shape == (2, 16, 32)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_above_the_feature_are_not_computed(kind: str) -> None:
    made, called = tower(kind), []
    for i, layer in enumerate(made.encoder.layers):
        layer.register_forward_hook(lambda *_, i=i: called.append(i))
    patch_features(made, PIXELS, -2)
    assert called == [0, 1]  # of three


def test_siglip_needs_no_pooling_head() -> None:
    whole, without = tower(KINDS[1]), tower(KINDS[1], vision_use_head=False)
    names = {name for name, _ in without.named_parameters()}
    state = {name: value for name, value in whole.state_dict().items() if name in names}
    without.load_state_dict(state)
    assert any(name.startswith("head.") for name in whole.state_dict())
    assert not any(name.startswith("head.") for name in names)
    features = [patch_features(made, PIXELS, -2) for made in (whole, without)]
    assert torch.equal(*features)


def test_clip_l_14_336_has_the_published_shape() -> None:
    """openai/clip-vit-large-patch14-336: 24 layers of 1024, 576 patches and the class token."""
    large = {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
    }  # fmt: skip
    with torch.device("meta"):
        made: Any = build_tower({"model_type": KINDS[0], **large})
        features = patch_features(made, torch.empty(1, 3, 336, 336), -2)
    assert sum(p.numel() for p in made.parameters()) == 303_507_456
    assert made.embeddings.position_embedding.weight.shape == (577, 1024)
    assert made.config.hidden_act == "quick_gelu" and made.config.layer_norm_eps == 1e-5
    assert features.shape == (1, 576, 1024)


def test_a_whole_clip_models_config_gives_its_towers_part() -> None:
    whole = {"model_type": "clip", "projection_dim": 9, "vision_config": VISION | {"patch_size": 8}}
    assert tower_config(whole) == {"model_type": KINDS[0], **VISION, "patch_size": 8}
    assert tower_config({"model_type": "siglip", "vision_config": {}})["model_type"] == KINDS[1]
    own = {"model_type": KINDS[0], **VISION}
    assert tower_config(own) == own
    assert tower_config({"model_type": "clip"}) == {"model_type": KINDS[0]}


def test_a_whole_models_vision_config_may_name_its_own_type() -> None:
    given = {"model_type": "clip", "vision_config": {"model_type": KINDS[0], **VISION}}
    made: Any = build_tower(tower_config(given))
    assert made.config.hidden_size == 32


def test_another_kind_of_tower_is_refused_by_name() -> None:
    message = r"vision: model_type = dinov2: must be clip_vision_model or siglip_vision_model"
    with pytest.raises(ConfigError, match=message):
        build_tower({"model_type": "dinov2"})
    with pytest.raises(ConfigError, match=r"vision: model_type = null"):
        build_tower({})
