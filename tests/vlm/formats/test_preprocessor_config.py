"""preprocessor_config.json of every version, read and written."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mobilellama.config import ConfigError, DataError
from mobilellama.vlm.data.images import (
    CLIP_MEAN,
    CLIP_STD,
    AspectRatio,
    ImageProcessor,
)
from mobilellama.vlm.formats.preprocessor_config import from_folder
from tests.vlm.helpers.processors import SIZE, bytes_of, clip, noise, processor

CLIP_OF_OLD = {
    "crop_size": SIZE, "do_center_crop": True, "do_normalize": True, "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": list(CLIP_MEAN),
    "image_std": list(CLIP_STD), "resample": 3, "size": SIZE,
}  # fmt: skip


# A tower's folder


def written(folder: Path, values: object, name: str = "preprocessor_config.json") -> Path:
    (folder / name).write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("aspect_ratio", ["square", "pad"])
def test_clip_processors_of_every_version_are_read(
    aspect_ratio: AspectRatio, tmp_path: Path
) -> None:
    expected = processor(aspect_ratio)
    assert from_folder(written(tmp_path, CLIP_OF_OLD), aspect_ratio) == expected
    clip().save_pretrained(tmp_path)
    assert "shortest_edge" in (tmp_path / "preprocessor_config.json").read_text()
    assert from_folder(str(tmp_path), aspect_ratio) == expected
    nested = {"image_processor": json.loads((tmp_path / "preprocessor_config.json").read_text())}
    (tmp_path / "preprocessor_config.json").unlink()
    written(tmp_path, nested, "processor_config.json")
    assert from_folder(tmp_path, aspect_ratio) == expected


def test_a_siglip_folder_squashes_or_pads(tmp_path: Path) -> None:
    half = (0.5, 0.5, 0.5)
    SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(tmp_path)
    squash = from_folder(tmp_path, "squash")
    assert squash == processor("squash", mean=half, std=half)
    assert from_folder(tmp_path, "pad") == processor("pad", mean=half, std=half)
    with pytest.raises(ConfigError, match=r"size = .*Choose the aspect ratio 'squash' or 'pad'\.$"):
        from_folder(tmp_path, "square")
    with pytest.raises(ConfigError, match=r"size = 28: .*aspect ratio 'square' or 'pad'\.$"):
        from_folder(written(tmp_path, CLIP_OF_OLD), "squash")


@pytest.mark.parametrize(
    ("aspect_ratio", "load"),
    [
        ("square", CLIPImageProcessorPil.from_pretrained),
        ("pad", CLIPImageProcessorPil.from_pretrained),
        ("squash", SiglipImageProcessorPil.from_pretrained),
    ],
)
def test_the_written_file_is_read_back_equal_here_and_by_transformers(
    aspect_ratio: AspectRatio, load: Callable[[str], Any], tmp_path: Path
) -> None:
    ours = processor(aspect_ratio, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    written(tmp_path, ours.to_hf())
    assert from_folder(tmp_path, aspect_ratio) == ours
    theirs, image = load(str(tmp_path)), Image.fromarray(noise(41, 41))
    np.testing.assert_array_equal(ours.pixels(image), bytes_of(theirs, image))
    np.testing.assert_allclose(
        ours.normalise(torch.from_numpy(ours.pixels(image))).numpy(),
        theirs(image, return_tensors="np")["pixel_values"][0],
        rtol=0,
        atol=2e-6,
    )


@pytest.mark.parametrize("nested", [False, True])
def test_without_the_file_the_towers_own_size_is_taken(
    nested: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"image_size": 56}
    written(tmp_path, {"vision_config": config} if nested else config, "config.json")
    with caplog.at_level(logging.INFO):
        assert from_folder(tmp_path, "pad") == ImageProcessor(size_pixels=56, aspect_ratio="pad")
    assert "has no preprocessor_config.json: images become 56 pixels wide" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_resize": False}, "do_resize = false: must be true."),
        ({"do_rescale": False}, "do_rescale = false: must be true."),
        ({"do_normalize": False}, "do_normalize = false: must be true."),
        ({"do_convert_rgb": False}, "do_convert_rgb = false: must be true."),
        ({"do_center_crop": False}, "do_center_crop = false: must be true where the shortest"),
        ({"do_pad": True}, "do_pad = true: must be false."),
        ({"resample": 2}, "resample = 2: must be 3."),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor = 0.0078"),
        ({"crop_size": 24}, "crop_size = 24: must be the size, 28."),
        ({"crop_size": {"height": 28, "width": 24}}, 'crop_size = {"height": 28, "width": 24}: '),
        ({"size": None}, "size = (absent): must be the whole number of pixels"),
        ({"size": {"longest_edge": 28}}, 'size = {"longest_edge": 28}: must be the whole number'),
        ({"size": 0}, "size = 0: must be the whole number"),
        ({"image_mean": [0.5, 0.5]}, "image_mean = [0.5, 0.5]: must be three numbers"),
        ({"image_std": "0.5"}, 'image_std = "0.5": must be three numbers'),
    ],
)
def test_what_is_not_done_here_is_refused_by_its_key(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    written(tmp_path, CLIP_OF_OLD | change)
    with pytest.raises(ConfigError) as caught:
        from_folder(tmp_path, "square")
    assert str(caught.value).startswith(f"{tmp_path / 'preprocessor_config.json'}: {message}")
    assert str(caught.value).endswith("Give the folder of a CLIP or SigLIP tower.")


def test_a_folder_without_a_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has neither preprocessor_config.json nor config.json"):
        from_folder(tmp_path, "pad")
    with pytest.raises(ConfigError, match=r"config.json: image_size = \(absent\): must be a whole"):
        from_folder(written(tmp_path, {"model_type": "clip"}, "config.json"), "pad")
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(DataError, match=r"preprocessor_config.json: is not JSON"):
        from_folder(tmp_path, "pad")


@pytest.mark.parametrize("whole", [False, True])
def test_a_siglip_tower_without_a_processor_gets_the_mean_of_transformers_class(
    tmp_path: Path, whole: bool
) -> None:
    tower = {"model_type": "siglip_vision_model", "image_size": 16}
    values = {"model_type": "siglip", "vision_config": tower} if whole else tower
    (tmp_path / "config.json").write_text(json.dumps(values))
    found = from_folder(tmp_path, "squash")
    assert (found.mean, found.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
