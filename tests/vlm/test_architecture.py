"""The parts fit together, or the message says which does not."""

import json
from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.data.images import ImageProcessor

CLIP_L: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "image_size": 336,
    "patch_size": 14,
}
LLAMA = {"model_type": "llama", "hidden_size": 2048, "max_position_embeddings": 4096}


def architecture(**fields: Any) -> Architecture:
    values = {
        "language": LLAMA,
        "vision": CLIP_L,
        "projector": "ldpnetv2",
        "images": ImageProcessor(size_pixels=336),
    }
    return Architecture(**(values | fields))


@pytest.mark.parametrize(
    ("projector", "tokens"), [("ldpnet", 144), ("ldpnetv2", 144), ("mlp2x_gelu", 576)]
)
def test_an_image_of_576_patches_takes_as_many_tokens_as_published(
    projector: str, tokens: int
) -> None:
    made = architecture(projector=projector)
    assert (made.patches, made.image_tokens) == (576, tokens)
    assert (made.image_pixels, made.vision_width, made.width) == (336, 1024, 2048)
    assert made.max_seq_len == 4096
    assert architecture(language=LLAMA | {"max_position_embeddings": None}).max_seq_len == 2048


def test_siglips_384_pixels_are_729_patches() -> None:
    """27 x 27: the convolution leaves the last six pixels out."""
    vision = CLIP_L | {"model_type": "siglip_vision_model", "image_size": 384}
    made = architecture(
        vision=vision, images=ImageProcessor(size_pixels=384), projector="mlp2x_gelu"
    )
    assert made.patches == made.image_tokens == 729


@pytest.mark.parametrize(
    ("part", "name"),
    [("vision", "num_hidden_layers"), ("vision", "image_size"), ("vision", "patch_size")],
)
def test_a_size_that_is_no_whole_number_is_refused_by_its_name(part: str, name: str) -> None:
    with pytest.raises(ConfigError) as error:
        architecture(**{part: CLIP_L | {name: [24, 24]}})
    assert f"model.{part}: {name} = [24, 24]: must be a whole number" in str(error.value)


def test_json_brings_it_back() -> None:
    made = architecture(
        feature_layer=-1,
        images=ImageProcessor(
            size_pixels=336, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3), aspect_ratio="pad"
        ),
    )
    values = json.loads(json.dumps(made.to_dict()))
    assert values == made.to_dict()  # what a checkpoint says of a run equals what the run says
    assert Architecture.from_dict(values) == made


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"language": {"hidden_size": 8}}, r"model\.language = .*: has no model_type"),
        ({"vision": {"hidden_size": 8}}, r"model\.vision = .*: has no model_type"),
        (
            {"feature_layer": -26},
            r"model\.feature_layer = -26: must be between -25 and -1, of a tower of 24 layers",
        ),
        ({"feature_layer": 0}, r"model\.feature_layer = 0: must be between"),
        (
            {"images": ImageProcessor(size_pixels=224)},
            r"images\.size_pixels = 224: must be that of the tower's images, 336\. Give the tower's"
            r" own preprocessor_config\.json",
        ),
        ({"projector": "ldpnetv3"}, r"ldpnetv3.*did you mean 'ldpnetv2'"),
        # 15 x 15 patches, which no 2 x 2 means cover
        (
            {"vision": CLIP_L | {"image_size": 210}, "images": ImageProcessor(size_pixels=210)},
            r"225",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        architecture(**fields)
