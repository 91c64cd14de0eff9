"""safetensors files that are written a tensor at a time: the library reads them back."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mobilellama.files.safetensors_file import write_safetensors
from mobilellama.progress import Progress

SHAPES = {"b.weight": torch.Size([3, 5]), "a.bias": torch.Size([7]), "c": torch.Size([])}


def write(path: Path, dtype: torch.dtype, tensors: dict[str, torch.Tensor]) -> None:
    with Progress("test", total=1.0, unit="MB") as progress:
        write_safetensors(path, SHAPES, dtype, iter(tensors.values()), progress)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_library_reads_each_tensor_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    wanted = {
        name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()
    }
    # Transposed: what is written is the tensor's order, not that of its memory.
    wanted["b.weight"] = wanted["b.weight"].view(5, 3).t()
    write(tmp_path / "file", dtype, wanted)
    with safe_open(tmp_path / "file", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert {*file.keys()} == {*SHAPES}
        for name, tensor in wanted.items():
            found = file.get_tensor(name)
            assert found.dtype == dtype and torch.equal(found, tensor)


def test_tensors_lie_in_the_order_given_behind_a_header_of_whole_words(tmp_path: Path) -> None:
    write(tmp_path / "file", torch.float32, {n: torch.ones(s) for n, s in SHAPES.items()})
    data = (tmp_path / "file").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert [header[name]["data_offsets"] for name in SHAPES] == [[0, 60], [60, 88], [88, 92]]
    assert len(data) == 8 + length + 92


def test_a_file_whose_tensors_end_early_does_not_appear(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        write(tmp_path / "file", torch.float32, {"b.weight": torch.ones(3, 5)})
    assert not (tmp_path / "file").exists()
