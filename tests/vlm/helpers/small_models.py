"""Small vision-language models of several kinds, and rows to train them on."""

from typing import Any

import torch
from torch import Tensor, nn

from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.data.images import ImageProcessor
from mobilellama.vlm.data.labels import IMAGE
from mobilellama.vlm.model import (
    VisionLanguageModel,
)
from tests.vlm.helpers.tiny_vlm import LANGUAGE as LLAMA
from tests.vlm.helpers.tiny_vlm import VISION

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 1},
    "qwen2": {"tie_word_embeddings": True, "num_key_value_heads": 2},
    "phi": {"partial_rotary_factor": 0.5, "attention_dropout": 0.0},  # biases, LayerNorm
    "phi3": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},  # fused projections
    "gemma": {"head_dim": 16, "num_key_value_heads": 1},  # scaled embeddings, tied
    "mixtral": {"num_local_experts": 4, "num_key_value_heads": 2},  # experts in one tensor
    "qwen2_moe": {  # and one that all tokens share, behind a gate of one output
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 24,
        "num_key_value_heads": 2,
    },
}


def architecture(kind: str = "llama", **fields: Any) -> Architecture:
    values: dict[str, Any] = {
        "language": {"model_type": kind, **LLAMA, **KINDS[kind]},
        "vision": {"model_type": "clip_vision_model", **VISION},
        "projector": "ldpnetv2",
        "images": ImageProcessor(size_pixels=16),
    }
    return Architecture(**(values | fields))


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give every weight, biases and norms too, a random value."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator) * 0.2
        parameter.copy_(noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))


def tiny(kind: str = "llama", **fields: Any) -> VisionLanguageModel:
    torch.set_num_threads(1)
    model = VisionLanguageModel(architecture(kind), **fields)
    randomise(model)
    return model.train()


def pixels(images: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (images, 3, 16, 16), generator=generator, dtype=torch.uint8)


def batch(images: bool = True) -> dict[str, Tensor]:
    """Return two rows: one image, and two; the second is padded. Or texts alone."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(3, 800, (2, 20), generator=generator)
    labels = ids.roll(-1, dims=1)
    labels[:, :9] = labels[:, -1] = -100
    labels[1, 15:] = -100
    given = {"input_ids": ids, "labels": labels}
    if images:
        ids[0, 2:6] = ids[1, 1:5] = ids[1, 7:11] = IMAGE
        labels[1, 6:11] = -100
        given["pixel_values"] = pixels(3)
    return given


def packed() -> dict[str, Tensor]:
    """Return the samples of ``batch`` twice in each of two rows."""
    given = batch()
    positions = torch.arange(20).repeat(2)[None].repeat(2, 1)
    both = {n: torch.cat([given[n], given[n].flip(0)], dim=1) for n in ("input_ids", "labels")}
    images = given["pixel_values"][[0, 1, 2, 1, 2, 0]]
    return {**both, "position_ids": positions, "pixel_values": images}
