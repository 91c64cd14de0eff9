"""'vlm export', and the weights that it writes."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mobilellama.vlm.formats.trained import Trained
from mobilellama.vlm.main import main
from tests.helpers.ranks import run_ranks
from tests.vlm.helpers.llava_data import write_llava
from tests.vlm.helpers.tiny_vlm import make_language_model, make_tower, train_vlm


def export(checkpoint: Path, output: Path, *more: object) -> Path:
    arguments = ["--checkpoint", checkpoint, "--output", output, *more]
    assert main(["export", *map(str, arguments)]) == 0
    return output


def changed(folder: Path, copy: Path, part: str, **fields: Any) -> Path:
    """Copy a folder in our form with other fields in a part of its config.json."""
    shutil.copytree(folder, copy)
    values = json.loads((copy / "config.json").read_text())
    values[part] = values[part] | fields
    (copy / "config.json").write_text(json.dumps(values))
    return copy


# ---- of runs


class Runs:
    """A first stage, a second one and one with LoRA, after a few steps each, and where it began."""

    def __init__(self, root: Path, tokenizer: Path) -> None:
        self.tower = make_tower(root / "tower", hidden_size=64, num_attention_heads=1)
        self.llm = make_language_model(
            root / "llm", tokenizer, hidden_size=64, num_attention_heads=4
        )
        self.align, self.full, self.lora = (root / name for name in ("align", "full", "lora"))
        captions, images = write_llava(root / "captions", captions=True)
        first = {"data.template": "plain", "train.language_model": False}
        first |= {"data.grouping": "none", "data.aspect_ratio": "square", "vision": self.tower}
        first |= {"train.max_steps": 2, "projector.kind": "ldpnet"}
        run_ranks(train_vlm, 1, self.llm, captions, images, self.align, first)
        data, images = write_llava(root / "data")
        more = {"train.max_steps": 2, "projector.kind": None}
        run_ranks(train_vlm, 1, self.align, data, images, self.full, more)
        more |= {"lora.rank": 4, "lora.alpha": 8, "optimizer.projector_learning_rate": 1e-3}
        run_ranks(train_vlm, 1, self.align, data, images, self.lora, more)


TOWER_NAME = "openai/clip-vit-tiny"


def weights_of(trained: Trained) -> dict[str, torch.Tensor]:
    return {name: trained.weights.parameter(name) for name in trained.shapes}


def assert_equal(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
