"""The corpus of a dataset as a later command is given it: a folder, a file, or a URL.

'tokenize run' has read it by a plan. What looks at it again finds the same files with these
functions, and reads them, on this machine or behind a URL.
"""

import hashlib
import io
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import sha256_of_range
from mobilellama.shards.dataset import Slice
from mobilellama.shards.source_file import FileState
from mobilellama.shards.sources.places import path_below
from mobilellama.shards.sources.remote import RemotePath, SourcePath, is_url

_BLOCK_BYTES = 1 << 20


def require_corpus(given: str, remedy: str) -> None:
    """Raise ConfigError unless `given` is a folder, a file or a URL."""
    if not is_url(given) and not Path(given).exists():
        raise ConfigError("sources", given, "is neither a folder nor a file, nor a URL", remedy)


def locate(slice_: Slice, given: str) -> tuple[SourcePath, str]:
    """Return the file of a slice of bytes, and the column of its text.

    Args:
        slice_: of the plan.
        given: the corpus: the folder of its files (or its URL), or the only file.
    """
    path = path_below(given, slice_.source)
    # A source of which another column than "text" was read is called FILE#COLUMN.
    file, mark, column = slice_.source.rpartition("#")
    if mark and state_of(path) is None:
        path = path_below(given, file)
    else:
        column = "text"
    is_file = not is_url(given) and Path(given).is_file()
    return (Path(given) if is_file else path), column


def state_of(path: SourcePath) -> FileState | None:
    """Return the state of a file; None if it is gone or no file, or a server does not tell."""
    try:
        if isinstance(path, RemotePath):
            return path.state()
        status = path.stat()
        return FileState.of([status]) if stat.S_ISREG(status.st_mode) else None
    except (OSError, DataError):
        return None


def open_source(path: SourcePath) -> BinaryIO:
    """Open a file for reading.

    Raises:
        OSError: a file of this machine cannot be opened.
        DataError: one behind a URL cannot be.
    """
    if isinstance(path, RemotePath):
        return cast(BinaryIO, io.BufferedReader(path.open(), _BLOCK_BYTES))
    return open(path, "rb")


def sha256_of_source(
    path: SourcePath, start: int, end: int | None, *, on_read: Callable[[int], object] | None = None
) -> str:
    """Return the sha256 of a file's bytes from `start` to before `end`.

    Args:
        path: the file.
        start: the first byte.
        end: the one after the last. None: the end of the file.
        on_read: is called with the size of each part that was read. It may raise an error.

    Raises:
        OSError: a file of this machine cannot be read.
        DataError: one behind a URL cannot be.
    """
    if isinstance(path, Path):
        return sha256_of_range(path, start, end, on_read=on_read)
    digest = hashlib.sha256()
    with path.open() as file:
        file.seek(start)
        left = (file.state.size if end is None else end) - start
        while left > 0 and (block := file.read(min(left, _BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
            if on_read:
                on_read(len(block))
    return digest.hexdigest()
