"""Find the functions that a pickle would call, without loading it."""

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mobilellama.config import DataError

_MOST_PICKLES = 8  # torch before 1.6 wrote several pickles into one file
_TORCHSCRIPT = "a TorchScript program"
# The functions that build a state dict. With weights_only, torch refuses its other functions.
_HARMLESS = ("collections.OrderedDict", "torch", "_codecs.encode")


def pickle_error(path: Path, call: str) -> DataError:
    """Return the error for a pickle that would run code.

    Args:
        path: the file.
        call: the function that it would call.
    """
    return DataError(
        f"{path}: holds a pickle with more than tensors, which would run code ({call}); it was "
        "not loaded. If you trust it, convert it to safetensors yourself"
    )


def code_in(path: Path) -> str | None:
    """Return the first function that a file's pickles would call, except those of tensors.

    Args:
        path: a file of any kind. Its name does not matter.

    Returns:
        The function, such as ``posix.system``. None if the file is no pickle, or has only tensors.
    """
    try:
        if zipfile.is_zipfile(path):
            return _code_in_archive(path)
        with open(path, "rb") as file:
            return _code_in_stream(file)
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError):
        return None  # damaged: its reader reports it


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
        except Exception:  # bytes that are no pickle can raise any error
            return None
    return None


def _is_harmless(name: str) -> bool:
    return name in _HARMLESS or name.startswith("torch.")


def _called(file: IO[bytes]) -> Iterator[str]:
    """Yield the dotted name of each global that one pickle in a file uses."""
    memo: dict[int, object] = {}
    pushed: list[object] = []  # arguments on the stack: STACK_GLOBAL takes its name from there
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
