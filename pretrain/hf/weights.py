"""Weights as Hugging Face expects them: safetensors files, with an index where there are several.

    model.safetensors                      or, above the shard size,
    model-0000i-of-0000n.safetensors       and model.safetensors.index.json

Memory holds no more than one parameter: see ``files/safetensors_file.py``.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import write_json
from mobilellama.files.safetensors_file import write_safetensors
from mobilellama.pretrain.weight_source import WeightSource
from mobilellama.progress import Progress

if TYPE_CHECKING:  # the module itself loads what --help does not need
    from huggingface_hub import StateDictSplit

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def narrowest_dtype(dtypes: Iterable[torch.dtype]) -> str:
    """Return the name of the narrowest dtype that holds the values of all of these exactly."""
    widest = reduce(torch.promote_types, dtypes)
    return next(name for name, its in DTYPES.items() if its == widest)


def cast(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an fp32 parameter in the export's dtype.

    Raises:
        DataError: it holds NaN or infinity.
        ConfigError: it is too large for the dtype.
    """
    extremes = torch.stack(torch.aminmax(value))  # NaN if any element is
    if not extremes.isfinite().all():
        raise DataError(f"parameter '{name}' holds NaN or infinity; export an earlier checkpoint")
    if not extremes.to(dtype).isfinite().all():  # rounding keeps the order
        largest = float(extremes.abs().max())
        rule = f"'{name}' holds {largest:.3g}, above the largest {torch.finfo(dtype).max:.3g}"
        chosen = next(choice for choice, its in DTYPES.items() if its == dtype)
        raise ConfigError("dtype", chosen, rule, "Use bf16 or fp32")
    return value.to(dtype)


def write_weights(
    source: WeightSource, folder: Path, *, dtype: torch.dtype, max_shard_bytes: int
) -> None:
    """Write all weights of a source, in its order.

    Args:
        source: is read in fp32.
        folder: where to; it exists.
        dtype: what the parameters are cast to.
        max_shard_bytes: a parameter above it gets a file of its own.
    """

    def write_file(path: Path, names: list[str], progress: Progress) -> None:
        shapes = {name: source.shape(name) for name in names}
        tensors = (cast(name, source.parameter(name), dtype) for name in names)
        write_safetensors(path, shapes, dtype, tensors, progress)

    pattern = folder / "model{suffix}.safetensors"
    plan = write_shards(source, pattern, write_file, dtype=dtype, max_shard_bytes=max_shard_bytes)
    parameters = sum(source.shape(name).numel() for name in source.names())
    index = folder / "model.safetensors.index.json"
    write_shard_index(index, plan, total_parameters=parameters)


def write_shards(
    source: WeightSource,
    pattern: Path,
    write_file: Callable[[Path, list[str], Progress], object],
    *,
    dtype: torch.dtype,
    max_shard_bytes: int,
) -> "StateDictSplit":
    """Write all weights of a source, file by file; return which file holds each.

    Args:
        source: gives names, in the order of the files, and shapes.
        pattern: of the files' paths, with {suffix} in the name.
        write_file: (path, names of its weights, progress) writes one file, and tells the progress
            the MB written.
        dtype: of the files.
        max_shard_bytes: a parameter above it gets a file of its own.
    """
    shapes = {name: source.shape(name) for name in source.names()}
    plan = plan_shards(shapes, dtype, max_shard_bytes, pattern.name)
    with Progress("export", total=plan.metadata["total_size"] / 1e6, unit="MB") as progress:
        for file, names in plan.filename_to_tensors.items():
            write_file(pattern.with_name(file), names, progress)
    return plan


def write_shard_index(path: Path, plan: "StateDictSplit", **facts: int) -> None:
    """Write which shard holds each parameter; nothing where one file holds all.

    Args:
        path: of the index.
        plan: from ``plan_shards``.
        facts: of its header, before the bytes of all.
    """
    if plan.is_sharded:
        header = facts | {"total_size": plan.metadata["total_size"]}
        weight_map = dict(sorted(plan.tensor_to_filename.items()))
        write_json(path, {"metadata": header, "weight_map": weight_map})


def plan_shards(
    shapes: Mapping[str, torch.Size], dtype: torch.dtype, max_shard_bytes: int, pattern: str
) -> "StateDictSplit":
    """Return which file each parameter goes into, as transformers would have it.

    Args:
        shapes: every parameter's name and shape.
        dtype: of the files.
        max_shard_bytes: a parameter above it gets a file of its own.
        pattern: of the files' names, with {suffix}.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    empty = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}
    return split_torch_state_dict_into_shards(
        empty, filename_pattern=pattern, max_shard_size=max_shard_bytes
    )
