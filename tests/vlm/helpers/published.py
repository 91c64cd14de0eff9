"""Folders in the published MobileVLM's layout, made by a second writing of its names and fields.

The names are those of the published files, written out here from the description of the layout
(not through key_maps.py), so that a test against it tests the map.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.vlm.helpers.plain_projectors import original_squeeze

Shape = tuple[int, ...]
_TOWER = "model.vision_tower.vision_tower.vision_model."


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of a model; a tower's heads are 64 wide."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    hidden: int = 128
    vocab: int = 800
    context: int = 256
    norm_eps: float = 1e-6
    vision_width: int = 128
    vision_layers: int = 3
    vision_hidden: int = 192
    image: int = 16
    patch: int = 4


TINY = Sizes()
_CLIP: dict[str, int] = {
    "vision_width": 1024,
    "vision_layers": 24,
    "vision_hidden": 4096,
    "image": 336,
    "patch": 14,
    "vocab": 32000,
}
SIZES_1_7B = Sizes(width=2048, layers=24, heads=16, hidden=5632, context=2048, **_CLIP)
SIZES_3B = Sizes(width=2560, layers=32, heads=32, hidden=6912, context=2048, **_CLIP)
SIZES_7B = Sizes(
    width=4096, layers=32, heads=32, hidden=11008, context=4096, norm_eps=1e-5, **_CLIP
)


def language_shapes(its: Sizes) -> dict[str, Shape]:
    """Return the language model's weights but the head, in the file's order."""
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (its.vocab, its.width)}
    for i in range(its.layers):
        layer = f"model.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"{layer}self_attn.{name}.weight"] = (its.width, its.width)
        for name in ("gate_proj", "up_proj"):
            shapes[f"{layer}mlp.{name}.weight"] = (its.hidden, its.width)
        shapes[f"{layer}mlp.down_proj.weight"] = (its.width, its.hidden)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{layer}{name}.weight"] = (its.width,)
    shapes["model.norm.weight"] = (its.width,)
    return shapes


def tower_shapes(its: Sizes) -> dict[str, Shape]:
    """Return the tower's weights."""
    width, patches = its.vision_width, (its.image // its.patch) ** 2

    def norm(name: str) -> dict[str, Shape]:
        return {f"{_TOWER}{name}.weight": (width,), f"{_TOWER}{name}.bias": (width,)}

    shapes: dict[str, Shape] = {
        f"{_TOWER}embeddings.class_embedding": (width,),
        f"{_TOWER}embeddings.patch_embedding.weight": (width, 3, its.patch, its.patch),
        f"{_TOWER}embeddings.position_embedding.weight": (patches + 1, width),
        **norm("pre_layrnorm"),
    }
    for i in range(its.vision_layers):
        layer = f"encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{_TOWER}{layer}self_attn.{name}.weight"] = (width, width)
            shapes[f"{_TOWER}{layer}self_attn.{name}.bias"] = (width,)
        shapes |= norm(f"{layer}layer_norm1") | norm(f"{layer}layer_norm2")
        for name, (rows, columns) in {
            "fc1": (its.vision_hidden, width), "fc2": (width, its.vision_hidden)
        }.items():  # fmt: skip
            shapes[f"{_TOWER}{layer}mlp.{name}.weight"] = (rows, columns)
            shapes[f"{_TOWER}{layer}mlp.{name}.bias"] = (rows,)
    return shapes | norm("post_layernorm")


def projector_shapes(kind: str, its: Sizes) -> dict[str, Shape]:
    """Return a projector's weights."""
    wide, narrow, c = its.vision_width, original_squeeze(its.width), its.width
    prefix = "model.mm_projector."
    first, second = {
        "ldpnet": ("model.mlp.1", "model.mlp.3"),
        "ldpnetv2": ("mlp.mlp.0", "mlp.mlp.2"),
        "mlp2x_gelu": ("0", "2"),
    }[kind]
    shapes: dict[str, Shape] = {}
    for name, columns in ((first, wide), (second, c)):
        shapes |= {f"{prefix}{name}.weight": (c, columns), f"{prefix}{name}.bias": (c,)}
    if kind == "ldpnetv2":
        shapes[f"{prefix}peg.peg.0.weight"] = (c, 1, 3, 3)
        shapes[f"{prefix}peg.peg.0.bias"] = (c,)
    if kind == "ldpnet":
        for b in (1, 2):
            block = f"{prefix}model.mb_block.{b}.block."
            shapes |= {
                f"{block}0.0.weight": (c, 1, 3, 3),
                f"{block}0.1.weight": (c,),
                f"{block}0.1.bias": (c,),
                f"{block}1.fc1.weight": (narrow, c, 1, 1),
                f"{block}1.fc1.bias": (narrow,),
                f"{block}1.fc2.weight": (c, narrow, 1, 1),
                f"{block}1.fc2.bias": (c,),
                f"{block}2.0.weight": (c, c, 1, 1),
                f"{block}2.1.weight": (c,),
                f"{block}2.1.bias": (c,),
            }
    return shapes


def published_shapes(kind: str, its: Sizes) -> dict[str, Shape]:
    """Return name and shape of every weight of a published file, in its order."""
    head = {"lm_head.weight": (its.vocab, its.width)}
    return language_shapes(its) | tower_shapes(its) | projector_shapes(kind, its) | head


def draw(shapes: dict[str, Shape], *, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Any:
    """Return random weights of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator) * 0.2).to(dtype)
        for name, shape in shapes.items()
    }


def vision_config(its: Sizes) -> dict[str, Any]:
    """Return what names the tower of these sizes, which is on no hub."""
    return {
        "model_type": "clip_vision_model",
        "hidden_size": its.vision_width,
        "intermediate_size": its.vision_hidden,
        "num_hidden_layers": its.vision_layers,
        "num_attention_heads": its.vision_width // 64,
        "num_channels": 3,
        "image_size": its.image,
        "patch_size": its.patch,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": 768,
    }


def published_config(kind: str, its: Sizes) -> dict[str, Any]:
    """Return config.json as MobileVLM (ldpnet) and MobileVLM V2 (ldpnetv2) have it."""
    return {
        "_name_or_path": f"/mnt/somewhere/mobilevlm_{kind}",
        "architectures": ["MobileLlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "freeze_mm_mlp_adapter": False,
        "hidden_act": "silu",
        "hidden_size": its.width,
        "image_aspect_ratio": "pad",
        "image_grid_pinpoints": None,
        "initializer_range": 0.02,
        "intermediate_size": its.hidden,
        "max_position_embeddings": its.context,
        "max_sequence_length": its.context,
        "mm_hidden_size": its.vision_width,
        **({} if kind == "ldpnet" else {"mm_projector_lr": None}),
        "mm_projector_type": kind,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "model_type": "mobilevlm",
        "num_attention_heads": its.heads,
        "num_hidden_layers": its.layers,
        "num_key_value_heads": its.heads,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": its.norm_eps,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.33.1",
        "tune_mm_mlp_adapter": False,
        "use_cache": True,
        "use_mm_proj": True,
        "vision_config": vision_config(its),
        "vision_tower_type": "clip",
        "vocab_size": its.vocab,
    }


Files = Literal["bin", "shards", "safetensors"]


def write_weights(folder: Path, weights: dict[str, Tensor], files: Files) -> None:
    """Write weights as one .bin, as two with an index, or as safetensors."""
    if files == "safetensors":
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    if files == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
        return
    names = list(weights)
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    weight_map: dict[str, str] = {}
    for i, half in enumerate(halves, 1):
        file = f"pytorch_model-{i:05}-of-00002.bin"
        torch.save({name: weights[name] for name in half}, folder / file)
        weight_map |= dict.fromkeys(half, file)
    size = sum(value.nbytes for value in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def make_published(
    folder: Path,
    tokenizer: Path,
    kind: str = "ldpnetv2",
    its: Sizes = TINY,
    *,
    files: Files = "bin",
    dtype: torch.dtype = torch.bfloat16,
    extra: dict[str, Tensor] | None = None,
    leave_out: tuple[str, ...] = (),
    **config: Any,
) -> Path:
    """Write a published folder of random weights, and return it.

    Args:
        folder: where to.
        tokenizer: a sentencepiece model of 800 pieces.
        kind: of the projector.
        its: sizes.
        files: how the weights are stored.
        dtype: of the weights.
        extra: more tensors.
        leave_out: beginnings of names that are not written.
        config: fields of config.json that are otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = draw(published_shapes(kind, its), dtype=dtype) | (extra or {})
    weights = {name: its for name, its in weights.items() if not name.startswith(leave_out)}
    write_weights(folder, weights, files)
    (folder / "config.json").write_text(json.dumps(published_config(kind, its) | config))
    shutil.copyfile(tokenizer, folder / "tokenizer.model")
    slow = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "pad_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(slow))
    return folder


def stored(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of a folder's files, read without this project."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("pytorch_model*.bin")):
        found |= torch.load(path, weights_only=True)
    for path in sorted(folder.glob("model*.safetensors")):
        found |= load_file(path)
    return found
