"""A tower, a language model and a run of 'vlm run' that a rank trains in seconds."""

from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from mobilellama.tokenizers.tokenizer import Tokenizer
from mobilellama.vlm.data.images import ImageProcessor
from mobilellama.vlm.main import main

VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
LANGUAGE: dict[str, Any] = {
    "vocab_size": 800,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
}
TINY_VLM: dict[str, Any] = {
    "distributed.accelerator": "cpu",
    "engine.kind": "ddp",
    "engine.precision": "fp32",
    "projector.kind": "ldpnetv2",
    "projector.pooling": "2x2",
    "train.seq_len": 256,
    "train.global_batch_size": 4,
    "train.micro_batch_size": 2,
    "train.max_steps": 4,
    "optimizer.learning_rate": 1e-2,
    "data.workers": 1,
    "metrics.every_steps": 1,
    "checkpoint.every_steps": 100,
}


def make_tower(folder: Path, *, seed: int = 0, **fields: Any) -> Path:
    """Write a CLIP tower of random weights as transformers does, and its image processor."""
    torch.manual_seed(seed)
    model = CLIPVisionModel(CLIPVisionConfig(**(VISION | fields)))
    model.save_pretrained(folder)
    processor = ImageProcessor(size_pixels=(VISION | fields)["image_size"])
    import json

    (folder / "preprocessor_config.json").write_text(json.dumps(processor.to_hf()))
    return folder


def make_language_model(folder: Path, tokenizer: Path, *, seed: int = 1, **fields: Any) -> Path:
    """Write a Llama of random weights as transformers does, with a tokenizer."""
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**(LANGUAGE | fields))).save_pretrained(folder)
    Tokenizer(tokenizer).save(folder)
    return folder


def train_vlm(
    init: Path,
    data: Path,
    images: Path,
    run: Path,
    fields: dict[str, Any] | None = None,
) -> int:
    """Run one attempt in this process (a rank)."""
    return main(vlm_argv(init, data, images, run, fields))


def vlm_argv(
    init: Path, data: Path, images: Path, run: Path, fields: dict[str, Any] | None = None
) -> list[str]:
    """Return the arguments of 'mobilellama vlm' that train the tiny model."""
    given = {"init": init, "data.path": data, "data.images": images, "run.folder": run}
    values = given | TINY_VLM | (fields or {})
    pairs = [(f"--{name}", "null" if v is None else str(v)) for name, v in values.items()]
    return ["run", *[argument for pair in pairs for argument in pair]]
