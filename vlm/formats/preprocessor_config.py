"""A vision tower's image processor from its folder, in the spelling of any transformers."""

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mobilellama.config import ConfigError
from mobilellama.pretrain.hf.weight_files import read_object
from mobilellama.vlm.data.images import (
    CLIP_MEAN,
    CLIP_STD,
    PREPROCESSOR_FILE,
    SIGLIP_HALF,
    AspectRatio,
    ImageProcessor,
)
from mobilellama.vlm.data.orientation import Orientation

log = logging.getLogger(__name__)

_PROCESSOR_FILE = "processor_config.json"  # transformers 5 writes it beside a tokenizer


def has_processor(folder: Path) -> bool:
    """Whether a folder has a file of an image processor."""
    return (folder / PREPROCESSOR_FILE).is_file() or (
        (folder / _PROCESSOR_FILE).is_file()
        and isinstance(read_object(folder / _PROCESSOR_FILE).get("image_processor"), dict)
    )


def processor_of_class(kind: object, size_pixels: int, aspect_ratio: AspectRatio) -> ImageProcessor:
    """Return the processor that transformers' class has for a tower, where no file describes one.

    Args:
        kind: the tower's or whole model's model_type.
        size_pixels: side of the tower's square.
        aspect_ratio: how images are brought to it.
    """
    is_siglip = kind in ("siglip", "siglip_vision_model")
    mean, std = (SIGLIP_HALF, SIGLIP_HALF) if is_siglip else (CLIP_MEAN, CLIP_STD)
    return ImageProcessor(size_pixels=size_pixels, mean=mean, std=std, aspect_ratio=aspect_ratio)


def from_folder(folder: str | Path, aspect_ratio: AspectRatio) -> ImageProcessor:
    """Read the processor of a vision tower's folder.

    preprocessor_config.json, in the spelling of any version of transformers, or else the image
    processor in processor_config.json; without both, config.json's image size with the mean and
    deviation that transformers' class has, CLIP's or SigLIP's.

    Args:
        folder: holds one of these files.
        aspect_ratio: how images are brought to the tower's square.

    Raises:
        ConfigError: the files ask for what is not done here, or there is none.
        DataError: a file is damaged.
    """
    folder = Path(folder)
    for path in (folder / PREPROCESSOR_FILE, folder / _PROCESSOR_FILE):
        if not path.is_file():
            continue
        values = read_object(path)
        if path.name == _PROCESSOR_FILE:
            values = values.get("image_processor")
        if isinstance(values, dict):
            return _Preprocessor(path, values).processor(aspect_ratio)
    path = folder / "config.json"
    if not path.is_file():
        rule = f"has neither {PREPROCESSOR_FILE} nor config.json"
        remedy = "Give the folder of a vision tower, such as CLIP's"
        raise ConfigError("folder of the image processor", str(folder), rule, remedy)
    values = read_object(path)
    size_pixels = values.get("vision_config", values).get("image_size")
    if type(size_pixels) is not int or size_pixels < 1:
        shown = "(absent)" if size_pixels is None else size_pixels
        remedy = f"Give the folder of a vision tower, with its {PREPROCESSOR_FILE}"
        rule = "must be a whole number above 0"
        raise ConfigError(f"{path}: image_size", shown, rule, remedy)
    made = processor_of_class(values.get("model_type"), size_pixels, aspect_ratio)
    log.info(
        "%s has no %s: images become %d pixels wide, with the mean %s and the deviation %s",
        folder, PREPROCESSOR_FILE, size_pixels, made.mean, made.std,
    )  # fmt: skip
    return made


@dataclass(frozen=True)
class _Preprocessor:
    """A preprocessor_config.json, and its path for messages. What it lacks is as for CLIP."""

    path: Path
    values: dict[str, object]

    def processor(self, aspect_ratio: AspectRatio) -> ImageProcessor:
        self._require_known_steps()
        size_pixels, squashes = self._size()
        if squashes and aspect_ratio == "square":
            rule = "sets both sides, which changes the shape, but 'square' keeps it"
            raise self._refusal("size", rule, "Choose the aspect ratio 'squash' or 'pad'")
        if not squashes and aspect_ratio == "squash":
            rule = "sets the shortest edge, which keeps the shape, but 'squash' does not"
            raise self._refusal("size", rule, "Choose the aspect ratio 'square' or 'pad'")
        return ImageProcessor(
            size_pixels=size_pixels,
            mean=self._channels("image_mean", CLIP_MEAN),
            std=self._channels("image_std", CLIP_STD),
            aspect_ratio=aspect_ratio,
            orientation=self._orientation(),
        )

    def _orientation(self) -> Orientation:
        """Return what an export of ours says; without it as transformers' processors."""
        match self.values.get("orientation"):
            case None | "as_stored":
                return "as_stored"
            case "as_shown":
                return "as_shown"
        raise self._refusal("orientation", "must be as_stored or as_shown", "Fix the file")

    def _require_known_steps(self) -> None:
        wanted = {
            **dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"), True),
            "do_pad": False,
            "resample": int(Image.Resampling.BICUBIC),
        }
        for key, value in wanted.items():
            if self.values.get(key) not in (None, value):
                raise self._refusal(key, f"must be {json.dumps(value)}")
        factor = self.values.get("rescale_factor")
        if factor is not None and not (
            isinstance(factor, float) and math.isclose(factor, 1 / 255, rel_tol=1e-6)
        ):
            raise self._refusal("rescale_factor", "must be 1 / 255")

    def _size(self) -> tuple[int, bool]:
        """Return the side in pixels, and whether it is that of both edges, not of the shortest."""
        size = self.values.get("size")
        squashes = isinstance(size, dict) and set(size) == {"height", "width"}
        if isinstance(size, dict) and set(size) == {"shortest_edge"}:
            size = size["shortest_edge"]
        size_pixels = self._side(size, "size")
        crops = self.values.get("do_center_crop")
        if not squashes and crops is False:
            raise self._refusal("do_center_crop", "must be true where the shortest edge is resized")
        crop = self.values.get("crop_size")
        if crops is not False and crop is not None and self._side(crop, "crop_size") != size_pixels:
            raise self._refusal("crop_size", f"must be the size, {size_pixels}")
        return size_pixels, squashes

    def _side(self, value: object, key: str) -> int:
        """Return S of S or of {"height": S, "width": S}."""
        if isinstance(value, dict) and set(value) == {"height", "width"}:
            value = value["height"] if value["height"] == value["width"] else None
        if type(value) is not int or value < 1:
            raise self._refusal(key, "must be the whole number of pixels of a square's side")
        return value

    def _channels(
        self, key: str, default: tuple[float, float, float]
    ) -> tuple[float, float, float]:
        match self.values.get(key):
            case None:
                return default
            case [float() | int() as red, float() | int() as green, float() | int() as blue]:
                return float(red), float(green), float(blue)
        raise self._refusal(key, "must be three numbers, of red, green and blue")

    def _refusal(
        self, key: str, rule: str, remedy: str = "Give the folder of a CLIP or SigLIP tower"
    ) -> ConfigError:
        value = self.values.get(key)
        shown = "(absent)" if value is None else json.dumps(value)
        return ConfigError(f"{self.path}: {key}", shown, rule, remedy)
