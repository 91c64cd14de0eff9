"""What a bucket was made of: its source's bytes by their hash, and how to see that they changed.

A receipt holds both. The state (size, times, inode) is cheap to compare, and a difference says
that the bytes may have changed; the hash decides. Receipts of older versions know neither.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields

from mobilellama.files.typed_json import from_json


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
        return FileState.together(
            FileState(
                size=status.st_size,
                mtime_ns=status.st_mtime_ns,
                ctime_ns=status.st_ctime_ns,
                inode=status.st_ino,
            )
            for status in statuses
        )

    @staticmethod
    def together(states: Iterable["FileState"]) -> "FileState":
        """Return the sums of sizes and inodes, and the latest times."""
        found = list(states)
        return FileState(
            size=sum(state.size for state in found),
            mtime_ns=max(state.mtime_ns for state in found),
            ctime_ns=max(state.ctime_ns for state in found),
            inode=sum(state.inode for state in found),
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

    def to_json(self) -> dict[str, object]:
        """Return what a receipt holds."""
        return asdict(self.state) | {"start": self.start, "end": self.end, "sha256": self.sha256}

    @staticmethod
    def from_json(values: Mapping[str, object]) -> "SourceRange | None":
        """Return what ``to_json`` was made of; None where a receipt does not know it.

        Other keys of the receipt have no effect.
        """
        names = {item.name for item in fields(FileState)}
        state = {name: value for name, value in values.items() if name in names}
        own = ("start", "end", "sha256")
        others = {name: value for name, value in values.items() if name in own}
        try:
            return from_json(SourceRange, others | {"state": state})
        except TypeError:
            return None
