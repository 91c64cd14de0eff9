"""Temporaries: files that are being written beside their place, and what killed writers left.

A temporary is ``PATH.tmp.HOST.PID.RANDOM``. One rule says which of them nobody writes any more:

- of this machine, those of processes that are no more;
- of another machine, whose processes are not seen here, those that were not written to for a
  time that the caller gives: 0 where no writer can need one any more.

Where a number was given to another process meanwhile, a temporary stays until that one ends.
"""

import os
import re
import secrets
import socket
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"(?P<final>.+)\.tmp\.(?P<host>.+)\.(?P<pid>[0-9]+)\.[0-9a-f]{8}")


def temporary_path(path: Path) -> Path:
    """Return ``PATH.tmp.HOST.PID.RANDOM``, which no other writer uses."""
    return path.with_name(
        f"{path.name}.tmp.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
    )


@dataclass(frozen=True, kw_only=True)
class Temporary:
    """A temporary that is there, and who made it."""

    path: Path
    final: str
    """Name of the file (or folder) that it was to become."""
    host: str
    pid: int

    def is_abandoned(self, others_after_s: float) -> bool:
        """Return whether nobody writes it any more.

        Args:
            others_after_s: since when another machine's must not have been written to.
        """
        if self.host == socket.gethostname():
            return not Path(f"/proc/{self.pid}").exists()
        try:
            return time.time() - self.path.stat().st_mtime >= others_after_s
        except FileNotFoundError:
            return False  # it has its name by now


def temporaries(paths: Iterable[Path]) -> Iterator[Temporary]:
    """Yield those of the paths that are named as temporaries."""
    for path in paths:
        if found := _NAME.fullmatch(path.name):
            yield Temporary(
                path=path, final=found["final"], host=found["host"], pid=int(found["pid"])
            )


def remove_abandoned(found: Iterable[Temporary], *, others_after_s: float) -> None:
    """Remove the files among temporaries that nobody writes any more."""
    for temporary in list(found):  # before anything goes: a folder may be read meanwhile
        if not temporary.path.is_dir() and temporary.is_abandoned(others_after_s):
            temporary.path.unlink(missing_ok=True)


def remove_of_processes(paths: Iterable[Path], pids: Collection[int]) -> None:
    """Remove the temporaries of processes of this machine that are known to have ended."""
    host = socket.gethostname()
    for temporary in list(temporaries(paths)):
        if temporary.host == host and temporary.pid in pids:
            temporary.path.unlink(missing_ok=True)
