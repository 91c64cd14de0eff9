"""CLIP's image processor and images to give it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mobilellama.vlm.data.images import (
    AspectRatio,
    ImageProcessor,
)

SIZE = 28


def noise(width: int, height: int, channels: int = 3) -> NDArray[np.uint8]:
    generator = np.random.default_rng(width * 1000 + height)
    values = generator.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return values[..., 0] if channels == 1 else values


def processor(aspect_ratio: AspectRatio = "square", **fields: Any) -> ImageProcessor:
    return ImageProcessor(size_pixels=SIZE, aspect_ratio=aspect_ratio, **fields)


def clip() -> Any:
    size = {"height": SIZE, "width": SIZE}
    return CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=size)


def bytes_of(theirs: Any, image: Image.Image) -> NDArray[np.uint8]:
    """transformers' result before it is scaled."""
    out = theirs(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
    assert out.dtype == np.uint8
    return out[0]
