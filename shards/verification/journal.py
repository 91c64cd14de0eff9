"""The journal of a verification that is not finished: the files that were found good.

Hours of reading need not be done again after an interruption. verify.jsonl, in the dataset's
folder, has a line for each file or range that was found good. It is removed when all are good.

    {"sealed": 1, "path": "/data/c4/00000.bin", "start": 0, "end": null, "size": 412316,
     "mtime_ns": ..., "ctime_ns": ..., "inode": ..., "sha256": "...", "checked_s": 1764537600,
     "content_sha256": "..."}

1. A file counts as good without being read if its line has the hash that it must have, and if its
   size, times and inode are those of the line. A file that was written anew is read again.
2. A line counts for a week. Bits flip in files that nobody writes, so a good file does not stay
   proven.
3. A line carries its own digest. A line that is cut or damaged is ignored, and its file is read.
4. The journal is no part of the dataset. Nothing else reads it, and it may be removed at any time.
"""

import errno
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mobilellama.config import ConfigError
from mobilellama.files.sealed import seal, unseal
from mobilellama.files.typed_json import from_json
from mobilellama.progress import format_count
from mobilellama.shards.source_file import FileState
from mobilellama.shards.sources.located import state_of
from mobilellama.shards.verification.checked_files import CheckedFile

log = logging.getLogger(__name__)

JOURNAL = "verify.jsonl"
_COUNTS_FOR_S = 7 * 86_400.0
_CLOCKS_DIFFER_S = 60.0  # of two machines
_WRITE_EVERY_S = 5.0  # so long a kill -9 can throw back; a small dataset writes no journal at all


@dataclass(frozen=True, kw_only=True)
class _Note:
    """A line of the journal."""

    path: str
    start: int
    end: int | None
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sha256: str
    checked_s: int
    """Seconds since 1970."""


class Journal:
    """Remembers files that were found good. Use it as a context manager.

    Args:
        path: the file; it need not exist.
        asked: whether the user named the file. Then it must be writable. Otherwise a check that
            cannot write it goes on without it.
        afresh: ignore and remove what an earlier check has noted.

    Raises:
        ConfigError: the user named a file that cannot be written, or is another one.
    """

    def __init__(self, path: Path, *, asked: bool = False, afresh: bool = False) -> None:
        self.path = path
        self._oldest_used_s: int | None = None
        self._unwritten: list[bytes] = []
        self._written_s = time.monotonic()
        self._is_writable = True
        if asked:
            _require_journal(path)
        if afresh:
            self.remove()
        self._notes = {(note.path, note.start, note.end): note for note in _read_notes(path)}

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self._write()

    def knows(self, file: CheckedFile) -> bool:
        """Return whether a file was found good, and has not been touched since."""
        note = self._notes.get(_key(file)) if self._notes else None
        state = state_of(file.path) if note else None
        if note is None or state is None or note.sha256 != file.sha256:
            return False
        if asdict(state) != {name: getattr(note, name) for name in asdict(state)}:
            return False
        self._oldest_used_s = min(note.checked_s, self._oldest_used_s or note.checked_s)
        return True

    def tell_known(self, num_files: int) -> None:
        """Say how many files are not read, and since when they are noted."""
        if self._oldest_used_s is not None:
            log.info(
                "verify: an unfinished check of %s has found %s good: not read again. --all true "
                "reads every file",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(self._oldest_used_s)),
                format_count(num_files, "file"),
            )

    def note(self, file: CheckedFile, state: FileState) -> None:
        """Remember that a file is good.

        Args:
            file: it.
            state: of the file, before and after it was read.
        """
        if not (state.mtime_ns or state.inode):
            return  # a server that tells of no change
        path, start, end = _key(file)
        note = _Note(
            path=path, start=start, end=end, sha256=file.sha256, checked_s=int(time.time()),
            **asdict(state),
        )  # fmt: skip
        self._unwritten.append(f"{json.dumps(seal(asdict(note)))}\n".encode())
        if time.monotonic() - self._written_s >= _WRITE_EVERY_S:
            self._write()

    def remove(self) -> None:
        """Remove the journal: all is good, or all is to be read again."""
        self._unwritten.clear()
        try:
            if self.path.exists():  # a read-only disk refuses even what is not there
                self.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: cannot be removed (%s). Remove it", self.path, error.strerror)

    def _write(self) -> None:
        """Append the notes. They need no fsync: a lost or cut line costs reading its file."""
        self._written_s = time.monotonic()
        lines, self._unwritten = b"".join(self._unwritten), []
        if not lines or not self._is_writable:
            return
        try:
            with open(self.path, "ab", buffering=0) as file:
                file.write(b"\n" * _ends_within_a_line(self.path) + lines)
        except OSError as error:
            self._is_writable = False
            log.warning(
                "%s: cannot be written (%s). The check goes on, but if it is interrupted it "
                "begins again. --journal FILE notes elsewhere what was read",
                self.path,
                error.strerror,
            )


def _require_journal(path: Path) -> None:
    """Refuse a file that the user named, if it is another one, or cannot be written.

    A journal is removed at the end, which must not happen to another file.
    """
    try:
        is_new = not path.exists()
        with open(path, "ab"):
            pass
    except OSError as error:
        rule = f"cannot be written ({error.strerror})"
        remedy = "Give a file in a folder that exists and is writable"
        raise ConfigError("journal", str(path), rule, remedy) from None
    if is_new:
        path.unlink()
    elif not path.is_file() or (path.stat().st_size and not any(map(_note_of, _lines(path)))):
        rule = "is not a journal of 'shards verify'"
        raise ConfigError("journal", str(path), rule, "Give a new file")


def _key(file: CheckedFile) -> tuple[str, int, int | None]:
    path = file.path.resolve() if isinstance(file.path, Path) else file.path
    return str(path), file.start, file.end


def _read_notes(path: Path) -> Iterator[_Note]:
    """Yield the notes that still count."""
    try:
        lines = _lines(path)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("%s: cannot be read (%s), and is ignored", path, error.strerror)
        return
    now_s, ignored = time.time(), 0
    for line in lines:
        note = _note_of(line)
        if note is None:
            ignored += 1
        elif now_s - _COUNTS_FOR_S < note.checked_s <= now_s + _CLOCKS_DIFFER_S:
            yield note
    if ignored:
        log.warning("%s: lines that are cut or damaged: %d. They are ignored", path, ignored)


def _lines(path: Path) -> list[bytes]:
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a file")  # a device may be endless
    return [line for line in path.read_bytes().splitlines() if line]


def _note_of(line: bytes) -> _Note | None:
    """Return a line's note. None: it is cut or damaged."""
    try:
        return from_json(_Note, unseal(json.loads(line)))
    except (ValueError, TypeError, RecursionError):
        return None


def _ends_within_a_line(path: Path) -> bool:
    """Return whether the last writer was killed in the middle of a line."""
    with open(path, "rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
