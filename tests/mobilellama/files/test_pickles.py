"""What a pickle would call is found without loading it, in every form that torch has written."""

import pickle
import pickletools
from pathlib import Path

import pytest
import torch

from mobilellama.config import DataError
from mobilellama.files.pickles import code_in
from mobilellama.pretrain.hf.weight_files import open_weights
from tests.helpers.foreign_code import Touch, write_pickle


@pytest.mark.parametrize("name", ["weights.bin", "weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("way", ["zip", "old", "bare"])
def test_a_pickle_that_would_run_code_is_named_in_one_sentence(
    tmp_path: Path, way: str, name: str
) -> None:
    canary = tmp_path / "canary"
    path = write_pickle(tmp_path / name, canary, way=way)
    with pytest.raises(DataError) as error:
        open_weights(path)
    assert str(error.value) == (
        f"{path}: holds a pickle with more than tensors, which would run code "
        "(posix.mkdir); it was not loaded. If you trust it, convert it to safetensors yourself"
    )
    assert not canary.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_what_is_called_is_named_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(pickle.dumps(Touch(tmp_path / "canary"), protocol=protocol))
    assert code_in(path) == "posix.mkdir"
    path.write_bytes(pickletools.optimize(pickle.dumps(print, protocol=protocol)))
    assert code_in(path) in ("builtins.print", "__builtin__.print")


def test_an_instance_of_the_old_kind_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"(S'true'\nios\nsystem\n.")
    assert code_in(path) == "os.system"


def test_tensors_alone_run_nothing(tmp_path: Path) -> None:
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.bin"
        content = {"a": torch.zeros(3), "b": torch.nn.Parameter(torch.ones(2).bfloat16())}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert code_in(path) is None
        assert open_weights(path).stored("a").tolist() == [0, 0, 0]


def test_other_bytes_are_no_code(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    for data in (b"", b"PK\x03\x04 cut off", b"\x80\x04\x95", bytes(range(256)) * 10, b"{}"):
        path.write_bytes(data)
        assert code_in(path) is None
        with pytest.raises(DataError, match=r"damaged|cannot be read"):
            open_weights(path)
