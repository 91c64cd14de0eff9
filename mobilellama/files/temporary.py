"""Temporary files: files that are being written, and files that killed writers left.

A temporary file is named ``PATH.tmp.HOST.PID.RANDOM``. It is abandoned if:

- it is of this machine, and its process has ended;
- it is of another machine, whose processes are not visible here, and it was not written to for a
  time that the caller gives. 0: no writer can still need it.

If the id of an ended process was given to another process, the file stays until that one ends.
"""

import math
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
    """A temporary file that exists, and its writer."""

    path: Path
    final: str
    """Name of the finished file or folder."""
    host: str
    pid: int

    def is_abandoned(self, others_after_s: float) -> bool:
        """Return whether no process writes it any more.

        Args:
            others_after_s: seconds without a write after which another machine's file counts as
                abandoned.
        """
        if self.host == socket.gethostname():
            return not Path(f"/proc/{self.pid}").exists()
        if others_after_s == 0:
            return True  # whatever the other machine's clock wrote
        try:
            return time.time() - self.path.stat().st_mtime >= others_after_s
        except FileNotFoundError:
            return False  # it was renamed to its final name just now


def temporaries(paths: Iterable[Path]) -> Iterator[Temporary]:
    """Yield the temporary files among the paths, by their names."""
    for path in paths:
        if found := _NAME.fullmatch(path.name):
            final = found["final"]
            while inner := _NAME.fullmatch(final):  # the temporary of a temporary
                final = inner["final"]
            yield Temporary(path=path, final=final, host=found["host"], pid=int(found["pid"]))


def remove_abandoned(found: Iterable[Temporary], *, others_after_s: float) -> None:
    """Remove the abandoned files among temporary files."""
    for temporary in list(found):  # list first: `found` may still be reading the folder
        if not temporary.path.is_dir() and temporary.is_abandoned(others_after_s):
            temporary.path.unlink(missing_ok=True)


def remove_of_processes(paths: Iterable[Path], pids: Collection[int]) -> None:
    """Remove the temporary files of those processes of this machine that have ended.

    Args:
        paths: files, temporary ones among them.
        pids: the processes.
    """
    host = socket.gethostname()
    found = (one for one in temporaries(paths) if one.host == host and one.pid in pids)
    remove_abandoned(found, others_after_s=math.inf)
