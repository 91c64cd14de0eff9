"""Write a safetensors file one tensor at a time, so that memory holds no more than one.

A safetensors file is a little-endian uint64 (the header's length), a JSON header (for each
tensor: dtype, shape, first and last byte), then the tensors' bytes. The header follows from
names, shapes and dtype alone; the library's own writer wants a whole file in memory.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mobilellama.files.atomic import whole_file
from mobilellama.progress import Progress

FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
"""The format's names of the dtypes that are read and written."""
_NAMES = {dtype: name for name, dtype in FLOATS.items()}
_HEADER_ALIGNMENT_BYTES = 8


def write_safetensors(
    path: Path,
    shapes: Mapping[str, torch.Size],
    dtype: torch.dtype,
    tensors: Iterable[Tensor],
    progress: Progress,
) -> None:
    """Write one file; `tensors` come in the order of `shapes` and are held one at a time."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
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
