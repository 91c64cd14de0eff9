"""Write files atomically, read and write JSON, and hash files with sha256.

A file is written under a temporary name in the same folder, fsynced and renamed. So a reader finds
either the whole file or none.
"""

import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from mobilellama.files.temporary import temporary_path

log = logging.getLogger(__name__)

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a write without space: disk full, quota reached, file size limit."""

_CHUNK_BYTES = 1 << 20  # stays in the cache of a core; 4 MB measured 5 % slower


def fsync_path(path: Path) -> None:
    """Force a file's bytes, or the renames in a folder, to disk, so they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`. At the end, fsync it and rename it to `path`.

    After an error the temporary file is removed.
    """
    with _taking_the_place(path) as temporary, open(temporary, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _taking_the_place(path: Path) -> Iterator[Path]:
    """Give a temporary beside `path`, and rename it to `path` at the end, or remove it."""
    temporary = temporary_path(path)
    try:
        yield temporary
        os.replace(temporary, path)
        fsync_path(path.parent)
    except BaseException as error:
        with suppress(OSError):  # a read-only disk refuses this, too; `error` says it better
            temporary.unlink(missing_ok=True)
        _name(path, temporary, error)
        raise


def _name(path: Path, temporary: Path, error: BaseException) -> None:
    """Put the final file's name into an error that names the temporary file or no file."""
    if not isinstance(error, OSError):
        return
    # The error of a write without space names no file.
    found_no_room = error.filename is None and error.errno in DISK_FULL
    if found_no_room or error.filename in (temporary, str(temporary)):
        error.filename = str(path)
        del error.filename2  # otherwise the message shows None


@contextmanager
def library_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, to which a library writes. Else as ``whole_file``.

    The file gets the mode of other new files (from the umask or the folder's default ACL), because
    some libraries make files that only their owner can read.
    """
    with _taking_the_place(path) as temporary:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(mode)
        fsync_path(temporary)


def write_json(path: Path, value: object, *, indent: int | None = 2) -> None:
    """Write JSON atomically. The same value gives the same bytes."""
    text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
    with whole_file(path) as file:
        # UTF-8 cannot hold half a surrogate pair. It becomes JSON's escape: \ud800.
        file.write(text.encode(errors="backslashreplace"))


def lock(file: int | BinaryIO, kind: int) -> bool:
    """Take a flock lock on an open file. Return False if another process holds it.

    If the file system has no locks, as some network file systems, return True.
    """
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        log.debug("no lock on this file system: %s", error)
    return True


def read_json(path: Path) -> Any:
    """Read a JSON file, with or without a byte order mark.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def sha256_of_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, as 64 hexadecimal digits."""
    return sha256_of_range(path)


def sha256_of_range(
    path: Path,
    start: int = 0,
    end: int | None = None,
    *,
    on_read: Callable[[int], object] | None = None,
) -> str:
    """Return the sha256 of a file's bytes from `start` to before `end`.

    Args:
        path: the file.
        start: the first byte.
        end: the one after the last. None: the end of the file.
        on_read: is called with the size of each part that was read. It may raise an error.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    left = math.inf if end is None else end - start
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while left > 0 and (count := file.readinto(buffer[: int(min(left, _CHUNK_BYTES))])):
            digest.update(buffer[:count])
            left -= count
            if on_read:
                on_read(count)
    return digest.hexdigest()


def sha256_of_json(value: object) -> str:
    """Return the sha256 of a value's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
