"""Records and the recipe of a file of samples."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobilellama.sft.data.template import read_template
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.vlm.data.records import ImageTextConfig
from mobilellama.vlm.data.sample_file import (
    Recipe,
    SampleReport,
    build_samples,
)
from mobilellama.vlm.data.samples import Samples

TOKENS = 4


def recipe_of(data: Path, images: Path, tokenizer: Path, **fields: Any) -> Recipe:
    template = read_template(fields.pop("template", "vicuna_v1"))
    made = Recipe(
        data=ImageTextConfig(path=str(data), images=str(images)),
        tokenizer=str(tokenizer),
        tokenizer_sha256=open_tokenizer(tokenizer).sha256,
        template=template,
        image_tokens=TOKENS,
        seq_len=512,
    )
    return replace(made, **fields)


def build(folder: Path, recipe: Recipe, workers: int = 1) -> tuple[Samples, SampleReport]:
    path = folder / "train.arrow"
    report = build_samples(path, recipe, fingerprint=recipe.fingerprint(), workers=workers)
    return Samples(path, image_tokens=recipe.image_tokens), report


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(records))
    return path
