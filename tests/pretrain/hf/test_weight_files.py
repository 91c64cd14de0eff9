"""Files of weights: found as transformers finds them, and what is damaged told by name."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mobilellama.config import DataError
from mobilellama.pretrain.hf.folder import HfFolder
from mobilellama.pretrain.hf.weight_files import open_weights, some
from tests.pretrain.helpers.hf_llama import (
    as_bin,
    require_same_logits,
    write_llama,
)


def test_a_bin_older_than_the_zip_format_is_read(copied: Path) -> None:
    as_bin(copied, _use_new_zipfile_serialization=False)
    require_same_logits(copied)


def test_shards_are_read_in_both_formats(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "sharded", max_shard_size="10KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 2
    require_same_logits(folder)
    for name in shards:
        torch.save(load_file(folder / name), folder / f"{name}.bin")
        (folder / name).unlink()
    index["weight_map"] = {name: f"{file}.bin" for name, file in index["weight_map"].items()}
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    require_same_logits(folder)
    (folder / f"{shards[1]}.bin").unlink()
    with pytest.raises(
        DataError, match=rf"its index names 1 \({shards[1]}.bin\), which are not in the"
    ):
        HfFolder(folder)


def test_safetensors_go_before_a_bin_as_in_transformers(copied: Path, plain: Path) -> None:
    zeros = {n: torch.zeros_like(t) for n, t in load_file(plain / "model.safetensors").items()}
    torch.save(zeros, copied / "pytorch_model.bin")
    require_same_logits(copied)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_told(copied: Path, zipped: bool) -> None:
    path = copied / "model.safetensors"
    content = path.read_bytes()
    for kept in (len(content) - 100, 500, 4):
        path.write_bytes(content[:kept])
        with pytest.raises(DataError, match=rf"{path}: is damaged or truncated \("):
            HfFolder(copied)
    path.write_bytes(content)
    path = as_bin(copied, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for kept in (len(content) - 100, 500, 4, 0):
        path.write_bytes(content[:kept])
        with pytest.raises(DataError, match=rf"{path}: (cannot be read|is damaged)"):
            HfFolder(copied)


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(
    copied: Path, tmp_path: Path, zipped: bool
) -> None:
    code: Any = {"model.norm.bias": Runs(tmp_path / "made")}
    path = as_bin(copied, code, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=r"holds a pickle with more than tensors, which would run"):
        HfFolder(copied)
    assert not (tmp_path / "made").exists()
    torch.load(path, weights_only=False)  # what a careless reader does
    assert (tmp_path / "made").exists()


def test_a_bin_of_something_else_is_told(copied: Path) -> None:
    path = as_bin(copied)
    torch.save({"state_dict": {"a": torch.ones(1)}, "epoch": 3}, path)
    with pytest.raises(
        DataError, match=r"it holds values that are not tensors: 2 \(state_dict, epoch\)"
    ):
        HfFolder(copied)
    torch.save([torch.ones(1)], path)
    with pytest.raises(DataError, match="it is not a dict of tensors"):
        HfFolder(copied)


def test_an_index_that_lies_is_told(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "sharded", max_shard_size="10KB")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    right = index["weight_map"]["lm_head.weight"]
    wrong = next(file for file in index["weight_map"].values() if file != right)
    index["weight_map"]["lm_head.weight"] = wrong
    path.write_text(json.dumps(index))
    with pytest.raises(DataError, match=rf"{wrong}: lacks lm_head.weight, which the index names"):
        HfFolder(folder)


def test_both_kinds_of_files_say_the_same_of_their_weights(plain: Path, copied: Path) -> None:
    safe, pickled = open_weights(plain / "model.safetensors"), open_weights(as_bin(copied))
    assert sorted(safe.names()) == sorted(pickled.names())
    for name in safe.names():
        assert safe.shape(name) == pickled.shape(name) == safe.stored(name).shape
        assert safe.dtype(name) == pickled.dtype(name) == torch.float32
        assert torch.equal(safe.stored(name), pickled.stored(name))


def test_many_names_are_counted_and_three_are_shown() -> None:
    assert some([]) == "0"
    assert some(["a"]) == "1 (a)"
    assert some(iter("abc")) == "3 (a, b, c)"
    assert some("abcd") == "4 (a, b, c, ...)"
