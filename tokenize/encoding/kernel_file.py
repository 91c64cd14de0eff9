"""Keep what was compiled once on a machine in a file, for all processes of a user.

    FOLDER/NAME     sha256 of the rest (32 bytes), the rest

1. The folders are tried in order: NUMBA_CACHE_DIR if it is set, else the user's cache; then a
   folder under the temporary one, if the first may not be written to.
2. A truncated or changed file is made again. So is a file of another user, because its code would
   run here: only files of this user and of root are read.
3. A process that finds no file makes it behind a lock, and the others wait for its file.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mobilellama.files.atomic import lock, whole_file

log = logging.getLogger(__name__)

_DIGEST_BYTES = 32
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_LONGEST_WAIT_S = 120.0  # compiling takes 7 s on a free core
_LOOK_EVERY_S = 0.05


def read_or_make(name: str, make: Callable[[], bytes]) -> bytes:
    """Return the content of a file; if there is none, make and store it.

    It need not be possible to store it. Then each process makes its own.
    """
    folders = cache_folders()
    content = _read_first(folders, name)
    if content is None:
        with _alone(folders, name):
            content = _read_first(folders, name)
            if content is None:
                content = make()
                store(name, content)
    return content


def cache_folders() -> list[Path]:
    """Return where to look and to write, the best first."""
    folders: list[Path] = []
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        folders.append(Path(given))
    else:
        with contextlib.suppress(RuntimeError):  # no home
            root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            folders.append(Path(root, "mobilellama"))
    with contextlib.suppress(OSError):  # no temporary folder
        folders.append(Path(tempfile.gettempdir(), f"mobilellama-{os.geteuid()}"))
    return folders


def _read_first(folders: list[Path], name: str) -> bytes | None:
    for folder in folders:
        with contextlib.suppress(OSError), open(folder / name, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid not in (os.geteuid(), 0) or status.st_mode & _OTHERS_WRITE:
                log.debug("%s is not used: another user could have written it", file.name)
                continue
            digest, content = file.read(_DIGEST_BYTES), file.read()
            if hashlib.sha256(content).digest() == digest:
                return content
            log.warning("%s is damaged: made again", file.name)
    return None


def store(name: str, content: bytes) -> None:
    """Write a file into the first folder that can be written to, in place of one of that name.

    If there is no such folder, it is only logged.
    """
    folders = cache_folders()
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with whole_file(folder / name) as file:
                os.fchmod(file.fileno(), 0o600)  # whatever the umask: the group is another user
                file.write(hashlib.sha256(content).digest() + content)
            return
    log.warning(
        "no folder for compiled code can be written to (%s), so that each process compiles it for "
        "some seconds. Set NUMBA_CACHE_DIR to a folder of yours",
        ", ".join(map(str, folders)),
    )


@contextlib.contextmanager
def _alone(folders: list[Path], name: str) -> Iterator[None]:
    """Hold a lock in the first folder that can be written to, unless there is a file.

    If there is one, it is damaged or another user's, and the next process may find it no better.
    """
    for folder in folders:
        with contextlib.ExitStack() as stack:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not (folder / name).exists():
                    file = stack.enter_context(open(folder / f"{name}.lock", "ab"))
                    _wait_for(file.fileno())
            except OSError:
                continue
            yield
            return
    yield


def _wait_for(descriptor: int) -> None:
    """Take a lock, or go on without it after two minutes: compiling twice does no harm."""
    deadline_s = time.monotonic() + _LONGEST_WAIT_S
    while not lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) and time.monotonic() < deadline_s:
        time.sleep(_LOOK_EVERY_S)
