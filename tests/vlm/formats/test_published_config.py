"""What the published form's config can say, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.vlm.data.images import ImageProcessor
from mobilellama.vlm.formats.folder import open_folder
from mobilellama.vlm.formats.published_config import require_publishable
from mobilellama.vlm.formats.trained import open_trained
from tests.vlm.helpers.exporting import changed, export
from tests.vlm.helpers.published import (
    SIZES_1_7B,
    TINY,
    vision_config,
)


@pytest.mark.parametrize(
    "fields", [{"num_attention_heads": 8}, {"hidden_act": "gelu"}, {"layer_norm_eps": 1e-6}]
)
def test_what_no_weight_of_the_tower_shows_is_in_the_published_config(
    ours: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    other = changed(ours, tmp_path / "other", "vision", **fields)
    folder = export(other, tmp_path / "out", "--format", "mobilevlm")
    config = json.loads((folder / "config.json").read_text())
    assert config["vision_config"] == vision_config(TINY) | fields
    assert open_folder(folder).architecture.vision == vision_config(TINY) | fields


def test_another_familys_language_model_or_tower_is_refused(ours: Path, tmp_path: Path) -> None:
    trained = open_trained(str(ours))

    def message(**fields: Any) -> str:
        other = replace(trained, architecture=replace(trained.architecture, **fields))
        with pytest.raises(ConfigError) as error:
            require_publishable(other, None)
        return str(error.value)

    language, vision = trained.architecture.language, trained.architecture.vision
    assert "language model = phi: must be llama" in message(
        language=language | {"model_type": "phi"}
    )
    siglip = vision | {"model_type": "siglip_vision_model"}
    assert "vision tower = siglip_vision_model: must be clip" in message(vision=siglip)


def test_the_towers_name_is_the_imports_or_given_or_that_of_the_true_tower(
    ours: Path, tmp_path: Path
) -> None:
    folder = export(ours, tmp_path / "a", "--format", "mobilevlm")
    values = json.loads((folder / "config.json").read_text())
    assert values["mm_vision_tower"] == "openai/clip-vit-large-patch14-336"
    folder = export(
        ours, tmp_path / "b", "--format", "mobilevlm", "--vision_tower", "laion/some-clip"
    )
    values = json.loads((folder / "config.json").read_text())
    assert values["mm_vision_tower"] == "laion/some-clip"
    unnamed = changed(ours, tmp_path / "c", "published")
    config = json.loads((unnamed / "config.json").read_text())
    del config["published"]
    (unnamed / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="vision_tower = null: is not given, and the tower"):
        export(unnamed, tmp_path / "d", "--format", "mobilevlm")


def test_the_true_tower_needs_no_name(ours: Path) -> None:

    trained = open_trained(str(ours))
    architecture = replace(
        trained.architecture,
        vision=vision_config(SIZES_1_7B),
        images=ImageProcessor(size_pixels=336),
    )
    true = replace(trained, architecture=architecture, published={})
    assert require_publishable(true, None) == "openai/clip-vit-large-patch14-336"
