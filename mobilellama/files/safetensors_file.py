"""Write a safetensors file one tensor at a time. Memory holds one tensor at most.

A safetensors file has three parts: a little-endian uint64 with the header's length, the header, and
the bytes of the tensors. The header is JSON: for each tensor its dtype, shape, first byte and end.
Names, shapes and dtype are enough to write it. The library's own writer needs the whole file in
memory.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mobilellama.files.atomic import whole_file
from mobilellama.progress import Progress

FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
"""Dtypes that are read and written, by their name in the format."""
_NAMES = {dtype: name for name, dtype in FLOATS.items()}
_HEADER_ALIGNMENT_BYTES = 8


def write_safetensors(
    path: Path,
    shapes: Mapping[str, torch.Size],
    dtype: torch.dtype,
    tensors: Iterable[Tensor],
    progress: Progress,
) -> None:
    """Write one file. `tensors` come in the order of `shapes`. Only one is in memory at a time."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers requires it
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + shape.numel() * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]
        }  # fmt: skip
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _HEADER_ALIGNMENT_BYTES)
    with whole_file(path) as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for shape, tensor in zip(shapes.values(), tensors, strict=True):
            assert tensor.shape == shape and tensor.dtype == dtype
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
            progress.advance(tensor.nbytes / 1e6)
