"""Weights as the published MobileVLM has them: its names, pytorch_model.bin or safetensors.

The order is that of the original's state dict: the language model without its head, tower,
projector, head. Its readers need that: llama.cpp's llava_surgery.py looks for tower and projector
in the last shard alone.
"""

from pathlib import Path

import torch
from torch import Tensor

from mobilellama.config import ConfigError
from mobilellama.files.atomic import whole_file
from mobilellama.pretrain.hf.weights import (
    cast,
    write_shard_index,
    write_shards,
    write_weights,
)
from mobilellama.pretrain.weight_source import RenamedWeights, WeightSource
from mobilellama.progress import Progress
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.formats.folder import tied_weights
from mobilellama.vlm.formats.key_maps import published_name
from mobilellama.vlm.model import LANGUAGE, PROJECTOR, TOWER, parameter_shapes

_HEAD = f"{LANGUAGE}lm_head.weight"
PROJECTOR_FILE = "mm_projector.bin"


def published_names(architecture: Architecture) -> dict[str, str]:
    """Return published name -> our name of every weight, in the order of the original's files.

    A head that is the embedding is written as its copy: the original ties none.
    """
    ours = [*parameter_shapes(architecture)]
    body = [name for name in ours if name.startswith(LANGUAGE) and name != _HEAD]
    rest = [name for prefix in (TOWER, PROJECTOR) for name in ours if name.startswith(prefix)]
    tied = tied_weights(architecture.language)
    names = {published_name(name, architecture.projector): name for name in [*body, *rest]}
    return names | {published_name(_HEAD, architecture.projector): tied.get(_HEAD, _HEAD)}


def write_published(
    source: WeightSource,
    architecture: Architecture,
    folder: Path,
    *,
    dtype: torch.dtype,
    max_shard_bytes: int,
    safetensors: bool,
) -> None:
    """Write all weights under their published names.

    Args:
        source: gives the weights by our names.
        architecture: of the model.
        folder: where to; it exists.
        dtype: what the parameters are cast to.
        max_shard_bytes: a parameter above it gets a file of its own.
        safetensors: instead of .bin.
    """
    write = write_weights if safetensors else write_bins
    renamed = RenamedWeights(source, published_names(architecture))
    write(renamed, folder, dtype=dtype, max_shard_bytes=max_shard_bytes)


def write_bins(
    source: WeightSource, folder: Path, *, dtype: torch.dtype, max_shard_bytes: int
) -> None:
    """Write pytorch_model.bin, or shards and their index; memory holds one file's tensors.

    Args:
        source: is read in fp32, and written in its order.
        folder: where to; it exists.
        dtype: what the parameters are cast to.
        max_shard_bytes: a parameter above it gets a file of its own.
    """

    def write_file(path: Path, names: list[str], progress: Progress) -> None:
        content: dict[str, Tensor] = {}
        for name in names:
            content[name] = cast(name, source.parameter(name), dtype)
            progress.advance(content[name].nbytes / 1e6)
        _save(content, path)

    pattern = folder / "pytorch_model{suffix}.bin"
    plan = write_shards(source, pattern, write_file, dtype=dtype, max_shard_bytes=max_shard_bytes)
    write_shard_index(folder / "pytorch_model.bin.index.json", plan)


def write_projector(
    source: WeightSource, architecture: Architecture, path: Path, *, dtype: torch.dtype
) -> None:
    """Write the projector alone as the original's first stage does: mm_projector.bin.

    Args:
        source: gives the weights by our names.
        architecture: of the model.
        path: the file.
        dtype: what the parameters are cast to.

    Raises:
        ConfigError: the projector has no published form.
    """
    if architecture.projector_class.published_keys is None:
        rule = f"the projector {architecture.projector} has no published form"
        raise ConfigError("format", "projector", rule, "Export the model with --format hf")
    content = {
        published_name(name, architecture.projector): cast(name, source.parameter(name), dtype)
        for name in source.names()
        if name.startswith(PROJECTOR)
    }
    _save(content, path)


def _save(content: dict[str, Tensor], path: Path) -> None:
    try:
        with whole_file(path) as file:
            torch.save(content, file)
    except RuntimeError as error:  # a full disk, in the library's own words
        cause = error.__context__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror) from None  # the folder gets named
        raise
