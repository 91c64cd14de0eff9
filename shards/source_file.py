"""What a bucket was made of: its source's bytes by their hash, and how to see that they changed.

A receipt holds both. The state (size, times, inode) is cheap to compare, and a difference says
that the bytes may have changed; the hash decides. Receipts of older versions know neither.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

SOURCES = "sources_sha256"
"""Where the identity of a dataset of rows has the sha256 of each source, by its name."""

_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class FileState:
    """What the file system says of a file, or of the files of a table together."""

    size: int
    mtime_ns: int
    """When the content was last written."""
    ctime_ns: int
    """When anything was last changed; unlike `mtime_ns`, no program can set it."""
    inode: int

    @staticmethod
    def of(statuses: Iterable[os.stat_result]) -> "FileState":
        """Return the state of files: the sums of sizes and inodes, and the latest times."""
        found = list(statuses)
        return FileState(
            size=sum(status.st_size for status in found),
            mtime_ns=max(status.st_mtime_ns for status in found),
            ctime_ns=max(status.st_ctime_ns for status in found),
            inode=sum(status.st_ino for status in found),
        )


@dataclass(frozen=True, kw_only=True)
class SourceRange:
    """The part of a source that a bucket was made of."""

    state: FileState
    """Of the whole source, when it was read."""
    start: int
    """First byte (or row) that was hashed."""
    end: int
    """The one after the last: the end of the last line that begins in the slice."""
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return what a receipt holds."""
        return asdict(self.state) | {"start": self.start, "end": self.end, "sha256": self.sha256}

    @staticmethod
    def from_json(values: dict[str, Any]) -> "SourceRange | None":
        """Return what ``to_json`` was made of; None where a receipt does not know it."""
        try:
            state = FileState(**{item.name: int(values[item.name]) for item in fields(FileState)})
            start, end, sha256 = int(values["start"]), int(values["end"]), str(values["sha256"])
        except (KeyError, ValueError, TypeError):
            return None
        return SourceRange(state=state, start=start, end=end, sha256=sha256)


def sha256_of_range(path: Path, start: int, end: int) -> str:
    """Return the sha256 of a file's bytes from `start` to before `end`."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while start < end and (chunk := file.read(min(_CHUNK_BYTES, end - start))):
            digest.update(chunk)
            start += len(chunk)
    return digest.hexdigest()
