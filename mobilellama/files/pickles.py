"""What a pickle would call if it were loaded, found without loading it."""

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mobilellama.config import DataError

_MOST_PICKLES = 8  # one after the other in a file of torch before 1.6
_TORCHSCRIPT = "a TorchScript program"
# What a state dict is made of. torch itself refuses every other function of its own.
_HARMLESS = ("collections.OrderedDict", "torch", "_codecs.encode")


def pickle_error(path: Path, call: str) -> DataError:
    """Return the error of a pickle that would run code, the same wherever one is met.

    Args:
        path: the file.
        call: what it would call.
    """
    return DataError(
        f"{path}: holds a pickle with more than tensors, which would run code ({call}); it was "
        "not loaded. Convert it to safetensors where you trust it"
    )


def code_in(path: Path) -> str | None:
    """Return the first thing that a file's pickles would call, beside what makes tensors.

    Args:
        path: a file of any kind, whatever its name says.

    Returns:
        Such as ``posix.system``; None where the file is no pickle, or one of tensors alone.
    """
    try:
        if zipfile.is_zipfile(path):
            return _code_in_archive(path)
        with open(path, "rb") as file:
            return _code_in_stream(file)
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError):
        return None  # damaged: whoever reads it says so


def _code_in_archive(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        for name in names:
            if name.endswith(".pkl"):
                with archive.open(name) as file:
                    if call := _code_in_stream(file):
                        return call
        is_script = any("/code/" in name for name in names)
        return _TORCHSCRIPT if is_script else None


def _code_in_stream(file: IO[bytes]) -> str | None:
    for _ in range(_MOST_PICKLES):
        try:
            for name in _called(file):
                if not _is_harmless(name):
                    return name
        except Exception:  # whatever bytes that are no pickle give
            return None
    return None


def _is_harmless(name: str) -> bool:
    return name in _HARMLESS or name.startswith("torch.")


def _called(file: IO[bytes]) -> Iterator[str]:
    """Yield the dotted name of each global that one pickle of a file asks for."""
    memo: dict[int, Any] = {}
    pushed: list[Any] = []  # the last arguments, the texts of a STACK_GLOBAL among them
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".", 1)
        elif name == "STACK_GLOBAL":
            yield ".".join(map(str, pushed[-2:]))
        elif name.startswith("EXT"):
            yield f"copyreg's extension {argument}"
        elif name == "MEMOIZE":
            memo[len(memo)] = pushed[-1] if pushed else None
        elif name.endswith("PUT"):
            memo[int(str(argument))] = pushed[-1] if pushed else None
        elif name.endswith("GET"):
            pushed.append(memo.get(int(str(argument))))
        elif opcode.stack_after:
            pushed.append(argument)
