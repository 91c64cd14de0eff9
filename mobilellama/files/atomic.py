"""Files that are whole or absent: written beside, fsynced, renamed; hashed with sha256.

JSON is read and written here too.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mobilellama.files.temporary import temporary_path

log = logging.getLogger(__name__)

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write says that found no room: on the disk, in a quota, under a limit."""

_CHUNK_BYTES = 1 << 22


def fsync_path(path: Path) -> None:
    """Make a file's bytes, or the renames inside a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary beside `path`; fsync and rename it to `path` at the end, or remove it."""
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
        temporary.unlink(missing_ok=True)
        _name(path, temporary, error)
        raise


def _name(path: Path, temporary: Path, error: BaseException) -> None:
    """Have an error name the file that the user knows: not the temporary beside it, not none."""
    if not isinstance(error, OSError):
        return
    # A write that finds no room does not say in which file.
    found_no_room = error.filename is None and error.errno in DISK_FULL
    if found_no_room or error.filename in (temporary, str(temporary)):
        error.filename = str(path)
        del error.filename2  # None would be shown


@contextmanager
def library_file(path: Path) -> Iterator[Path]:
    """Give a temporary beside `path`, for a library that makes the file; then as ``whole_file``.

    The file gets the mode that the umask (or the folder's default list) gives to new files: some
    libraries make files that only their owner can read.
    """
    with _taking_the_place(path) as temporary:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(mode)
        fsync_path(temporary)


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write JSON, whole or not at all; the same value gives the same bytes."""
    text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
    with whole_file(path) as file:
        # Half a surrogate pair, which UTF-8 has not, becomes JSON's own escape of it: \ud800.
        file.write(text.encode(errors="backslashreplace"))


def lock(file: int | BinaryIO, kind: int) -> bool:
    """Take a lock of flock's on an open file; return False if others are in its way.

    Where the file system has no locks, as some network ones, it is taken to be free: nobody can
    be in the way that could be told.
    """
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        log.debug("no lock on this file system: %s", error)
    return True


def read_json(path: Path) -> Any:
    """Read a JSON file, with a byte order mark or without.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def sha256_of_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_json(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
