"""Folders of tiny vision-language models whose answers vary with question and image."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from mobilellama.sft.data.template import read_template
from mobilellama.tokenizers.tokenizer import Tokenizer
from mobilellama.vlm.formats.folder import OURS, TEMPLATE_FILE, open_folder
from mobilellama.vlm.model import parameter_shapes
from tests.vlm.helpers.published import TINY, draw, make_published, published_shapes

CONTEXT_TOKENS = 256
IMAGE_TOKENS = {"ldpnetv2": 4, "mlp2x_gelu": 16}
COLOURS = ("red", "green", "blue", "yellow", "white", "black", "orange", "purple")


# Of the random weights, what is made larger by how much: else answers hardly depend on images.
_LARGER = {
    "model.mm_projector.mlp.mlp.2.weight": 8,
    "model.mm_projector.2.weight": 8,
    "input_layernorm.weight": 3,
    "post_attention_layernorm.weight": 3,
    "model.norm.weight": 3,
}


def make_assistant(
    folder: Path,
    tokenizer: Path,
    kind: str = "mlp2x_gelu",
    *,
    template: str = "vicuna_v1",
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Path:
    """Write a folder of random weights in our form, and return it.

    The same in the published form stands beside it, as ``published``.
    """
    larger = {
        name: factor * weight
        for name, weight in draw(published_shapes(kind, TINY), dtype=dtype).items()
        for end, factor in _LARGER.items()
        if name.endswith(end)
    }
    published = open_folder(
        make_published(folder / "published", tokenizer, kind, dtype=dtype, extra=larger, **config)
    )
    architecture = published.architecture
    weights = {
        name: published.weights.stored(name).clone() for name in parameter_shapes(architecture)
    }
    whole = folder / "ours"
    whole.mkdir()
    save_file(weights, whole / "model.safetensors", metadata={"format": "pt"})
    values = {"model_type": OURS, **architecture.to_dict()}
    (whole / "config.json").write_text(json.dumps(values))
    (whole / TEMPLATE_FILE).write_text(read_template(template).to_yaml())
    Tokenizer(tokenizer).save(whole)
    return whole


def picture(number: int) -> Image.Image:
    """Return an image that no other number has."""
    image = Image.new("RGB", (20 + number % 5, 16), COLOURS[number % len(COLOURS)])
    image.paste(COLOURS[(number + 3) % len(COLOURS)], (number % 12, 0, number % 12 + 4, 9))
    return image


def write_pictures(folder: Path, count: int) -> list[str]:
    """Write images into a folder; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(number).save(folder / f"{number}.png")
    return [f"{number}.png" for number in range(count)]
