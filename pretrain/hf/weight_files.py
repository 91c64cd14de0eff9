"""Files of weights in a Hugging Face folder: found as transformers finds them, read on demand.

safetensors by its library; .bin with ``weights_only``, so that no code in the pickle runs.
"""

import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mobilellama.config import ConfigError, DataError, one_line
from mobilellama.files.atomic import read_json, sha256_of_file
from mobilellama.files.pickles import code_in, pickle_error
from mobilellama.files.safetensors_file import FLOATS
from mobilellama.pretrain.hf.fingerprint import sampled_sha256
from mobilellama.pretrain.weight_source import WeightSource

_WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")


class WeightFile(WeightSource):
    """One file of weights, open, by the names in it."""

    path: Path
    shapes: dict[str, torch.Size]
    dtypes: dict[str, Any]

    def names(self) -> list[str]:
        """Return the names of all weights."""
        return list(self.shapes)

    def shape(self, name: str) -> torch.Size:
        """Return a weight's shape."""
        return self.shapes[name]

    def dtype(self, name: str) -> Any:
        """Return a weight's dtype: torch's, or the file's name of one that torch has not."""
        return self.dtypes[name]

    @property
    def fingerprint(self) -> str:
        """sha256 of the file."""
        return sha256_of_file(self.path)


class _Safetensors(WeightFile):
    """A .safetensors file: header read, tensors read on demand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = safe_open(path, framework="pt")
        slices = {name: self._file.get_slice(name) for name in self._file.keys()}
        self.shapes = {name: torch.Size(its.get_shape()) for name, its in slices.items()}
        kinds = {name: its.get_dtype() for name, its in slices.items()}
        self.dtypes: dict[str, Any] = {n: FLOATS.get(kind, kind) for n, kind in kinds.items()}

    def stored(self, name: str) -> Tensor:
        return self._file.get_tensor(name)


class _Pickle(WeightFile):
    """A .bin file: a pickled dict of tensors, memory-mapped, no code of it run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Only the zip format (torch 1.6 and later) can be mapped.
        mapped = zipfile.is_zipfile(path)
        with open(path, "rb") as file:
            if not mapped and file.read(2) == b"PK":
                raise ValueError("it is truncated")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
        if not isinstance(content, dict) or not all(isinstance(n, str) for n in content):
            raise ValueError("it is not a dict of tensors")
        others = [name for name, value in content.items() if not isinstance(value, Tensor)]
        if others:
            raise ValueError(f"it holds values that are not tensors: {some(others)}")
        self._tensors: dict[str, Tensor] = content
        self.shapes = {name: value.shape for name, value in content.items()}
        self.dtypes: dict[str, Any] = {name: value.dtype for name, value in content.items()}

    def stored(self, name: str) -> Tensor:
        return self._tensors[name]


def open_weights(path: Path) -> WeightFile:
    """Open a file of weights.

    Raises:
        DataError: it is damaged, or would run code.
    """
    try:
        return _Safetensors(path) if path.suffix == ".safetensors" else _Pickle(path)
    except Exception as error:  # of any kind, by what the bytes are
        if call := code_in(path):
            raise pickle_error(path, call) from None
        if isinstance(error, SafetensorError):
            what = f"is damaged or truncated ({one_line(error)})"
        elif not isinstance(error, pickle.UnpicklingError):
            what = f"cannot be read ({one_line(error)})"
        elif "global" in str(error).lower():  # torch names the function that it refuses
            raise pickle_error(path, "a function of torch") from None
        else:
            what = "is damaged, or is not a file of weights"
        raise DataError(f"{path}: {what}") from None


class StoredWeights(WeightSource):
    """All weights of a folder by name, read on demand.

    Args:
        folder: holds one file of weights, or several with their index.
        field: the config field that named the folder, for messages.
        remedy: for the message of a folder without weights.

    Raises:
        ConfigError: the folder has no weights.
        DataError: a file is damaged, or lacks what the index says.
    """

    def __init__(self, folder: Path, field: str, remedy: str) -> None:
        self.folder = folder
        self.paths, weight_map = find_weights(folder, field, remedy)
        files = {path.name: open_weights(path) for path in self.paths}
        self._file_of: dict[str, WeightFile] = {
            name: file
            for file_name, file in files.items()
            for name in file.shapes
            if weight_map.get(name, file_name) == file_name
        }
        for name, file_name in weight_map.items():
            if name not in files[file_name].shapes:
                raise DataError(f"{folder / file_name}: lacks {name}, which the index names")

    def names(self) -> list[str]:
        """Return the names of all weights."""
        return list(self._file_of)

    def shape(self, name: str) -> torch.Size:
        """Return a weight's shape."""
        return self._file_of[name].shapes[name]

    def dtype(self, name: str) -> Any:
        """Return a weight's dtype: torch's, or the file's name of one that torch has not."""
        return self._file_of[name].dtypes[name]

    def stored(self, name: str) -> Tensor:
        """Return a weight as it is stored; it may be a view of the file."""
        return self._file_of[name].stored(name)

    @property
    def fingerprint(self) -> str:
        """Identity of the folder, as 64 hexadecimal digits, without reading all of it.

        sha256 of config.json and, for each weight file, its name, size and 64 evenly spaced
        blocks of 4 KiB.
        """
        return sampled_sha256([self.folder / "config.json"], self.paths)

    def close(self) -> None:
        """Let go of the files."""
        self._file_of.clear()


def find_weights(folder: Path, field: str, remedy: str) -> tuple[list[Path], dict[str, str]]:
    """Return the weight files that transformers would take, and the index's map if there is one."""
    for name in _WHOLE_FILES:
        if (folder / name).is_file():
            return [folder / name], {}
        index = folder / f"{name}.index.json"
        if not index.is_file():
            continue
        weight_map = read_object(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise DataError(f"{index}: has no weight_map")
        if outside := [f for f in weight_map.values() if f != Path(str(f)).name]:
            raise DataError(f"{index}: names {outside[0]!r}, which is not a file beside it")
        paths = [folder / file for file in sorted(set(weight_map.values()))]
        if absent := [path.name for path in paths if not path.is_file()]:
            raise DataError(
                f"{folder}: its index names {some(absent)}, which are not in the folder"
            )
        return paths, weight_map
    raise ConfigError(field, str(folder), f"has no {' or '.join(_WHOLE_FILES)}", remedy)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: it is none.
    """
    try:
        value = read_json(path)
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({one_line(error)})") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: must hold a JSON object")
    return value


def some(names: Iterable[str]) -> str:
    """Return the count of names and the first few."""
    names = list(names)
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} ({', '.join(names[:3])}{more})" if names else "0"
