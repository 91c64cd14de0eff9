r"""A source file as it was planned: its bytes, unpacked where it is compressed, and its lines.

1. A file of a plan must have the plan's size, and nothing may write to it while it is read;
   its bytes are hashed on the way.
2. ``.zst`` and ``.gz`` are read frame after frame; a frame without its end is an error.
   (python-zstandard's ``stream_reader`` takes a truncated frame for a normal end of file.)
3. Lines end at ``\n`` alone: U+2028 and U+0085 may stand inside JSON strings.
4. Of a line that is too long, no more is held than shows that it is.
"""

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

from mobilellama.config import DataError
from mobilellama.files.json_lines import LONGEST_LINE_BYTES, UTF8_MARK, require_utf8
from mobilellama.shards.source_file import FileState, SourceRange
from mobilellama.shards.sources.remote import (
    RemoteFile,
    RemotePath,
    SourcePath,
    open_planned_remote,
)

_BLOCK_BYTES = 1 << 20
# What a packed block unpacks to is held at once. zstd packs up to 128 KiB into 4 bytes, so that the
# 1 << 13 bytes give 256 MiB at most; text gives about 30 kB.
_PACKED_BLOCK_BYTES = 1 << 13


@contextmanager
def open_planned(path: SourcePath, size: int) -> Iterator[BinaryIO]:
    """Open a source file, which must have the plan's size, and stay the same while it is read.

    Raises:
        DataError: it cannot be opened, has another size, or was changed meanwhile.
    """
    if isinstance(path, RemotePath):
        with open_planned_remote(path, size) as remote:
            yield remote
        return
    try:
        file = open(path, "rb", buffering=0)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be opened ({error.strerror}). "
            "Restore it, and run the same command again"
        ) from None
    with file:
        _require_size(file, path, size, "before")
        before = file_state(file)
        try:
            yield file
        except OSError as error:  # of a disk or a network file system; it names no file
            raise DataError(
                f"{path}: cannot be read ({error.strerror}). "
                "Run the same command again when its disk or network can be read"
            ) from None
        _require_size(file, path, size, "after")
        if file_state(file) != before:
            raise DataError(
                f"{path}: another process wrote to it while it was read. "
                "Run the same command again when no process writes to it"
            )


def file_state(file: BinaryIO | RawIOBase) -> FileState:
    """Return the state of an open file; of a remote one, when it was opened."""
    if isinstance(file, RemoteFile):
        return file.state
    return FileState.of([os.fstat(file.fileno())])


def _require_size(file: RawIOBase, path: Path, size: int, when: str) -> None:
    found = os.fstat(file.fileno()).st_size
    if found != size:
        raise DataError(
            f"{path}: {found:,} bytes {when} reading, but it had {size:,} when the plan was made. "
            "Restore it, or tokenise into another output folder"
        )


class HashedRange:
    """A range of an open file, hashed while it is read in order."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file, self._start, self._end = file, start, end
        self._state = file_state(file)
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes of the file."""
        at = self._file.tell()
        block = self._file.read(size)
        inside, beyond = max(self._start - at, 0), max(self._end - at, 0)
        self._digest.update(memoryview(block)[inside:beyond])
        return block

    def tell(self) -> int:
        """Return where the file stands."""
        return self._file.tell()

    def hashed(self, end: int) -> SourceRange:
        """Return the range from `start` to `end`, which is not before its own end.

        What lies between the two ends is read once more: the rest of a line, which may be too long
        to be held until its end is known.
        """
        digest, left = self._digest.copy(), end - self._end
        if left:
            self._file.seek(self._end)
        while left and (block := self._file.read(min(left, _BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
        return SourceRange(state=self._state, start=self._start, end=end, sha256=digest.hexdigest())


def hash_whole(file: BinaryIO, size: int) -> SourceRange:
    """Return what a file that was read in no order holds, by reading it once more."""
    file.seek(0)
    source = HashedRange(file, 0, size)
    while source.read(_BLOCK_BYTES):
        pass
    return source.hashed(size)


class Readable(Protocol):
    """What blocks are read from: an open file, or a ``HashedRange``."""

    def read(self, size: int = -1, /) -> bytes: ...  # noqa: D102
    def tell(self) -> int: ...  # noqa: D102


class _Frame(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


_FRAMES: dict[str, Callable[[], _Frame]] = {
    # 2**31 is the largest window there is: files packed with --long=31 need it.
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj(),
    ".gz": lambda: zlib.decompressobj(wbits=16 + zlib.MAX_WBITS),
}

_SKIPPABLE = tuple(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60))
_FIRST_BYTES = {".zst": (b"\x28\xb5\x2f\xfd", *_SKIPPABLE), ".gz": (b"\x1f\x8b",)}


def read_blocks(file: Readable, path: SourcePath) -> Iterator[bytes]:
    """Yield a file's content from where it stands, unpacked if `path` ends in .zst or .gz.

    ``file.tell()`` says how much of the file, as it lies on disk, the blocks so far needed.

    Raises:
        DataError: a compressed file is corrupt, or ends within a frame.
    """
    if open_frame := _FRAMES.get(path.suffix):
        yield from _unpacked(file, path, open_frame)
        return
    while block := file.read(_BLOCK_BYTES):
        yield block


def _unpacked(
    file: Readable, path: SourcePath, open_frame: Callable[[], _Frame]
) -> Iterator[bytes]:
    frame, frames = None, 0
    while block := file.read(_PACKED_BLOCK_BYTES):
        if frame is None and frames == 0:
            _require_packed(block, path)
        while block:
            frame = frame or open_frame()
            try:
                yield frame.decompress(block)
            except (zstandard.ZstdError, zlib.error) as error:
                raise DataError(
                    f"{path}: corrupt before byte {file.tell():,} ({error}). Fetch the file again"
                ) from None
            block = frame.unused_data if frame.eof else b""
            if frame.eof:
                frame, frames = None, frames + 1
    if frame is None and frames == 0:
        raise DataError(f"{path}: is empty, which no {path.suffix} file is. Fetch the file again")
    if frame is not None:
        raise DataError(
            f"{path}: truncated: its {file.tell():,} bytes end within a compressed frame. "
            "Fetch the file again"
        )


def _require_packed(start: bytes, path: SourcePath) -> None:
    """Raise DataError if a file's first bytes are not those of the packing that its name says."""
    known = _FIRST_BYTES[path.suffix]
    if not any(first.startswith(start[: len(first)]) for first in known):
        raise DataError(
            f"{path}: is not a {path.suffix} file (it begins with {start[:8]!r}). "
            "Give it the name of what it is, or fetch it again"
        )


def in_utf8(blocks: Iterator[bytes], path: SourcePath) -> Iterator[bytes]:
    """Pass blocks on, if the first is not in an encoding that no line could be read in.

    Raises:
        DataError: the file is UTF-16, or compressed under a plain name.
    """
    checked = False
    for block in blocks:
        if block and not checked:
            require_utf8(block, path)
            checked = True
        yield block


def split_lines(blocks: Iterator[bytes], offset: int) -> Iterator[tuple[int, bytes]]:
    r"""Yield (offset, line) of blocks that start at `offset`; lines end at ``\n`` alone.

    A byte order mark at offset 0 belongs to no line. Of a line that is longer than
    ``LONGEST_LINE_BYTES``, the beginning is given, which is longer too: see ``require_short``.
    """
    for at, line in view_lines(blocks, offset):
        yield at, bytes(line)


def view_lines(blocks: Iterator[bytes], offset: int) -> Iterator[tuple[int, bytes | memoryview]]:
    """Do the same as ``split_lines``, but yield views of the blocks where a line lies in one.

    orjson takes a view. To copy each line takes a sixth of the time of reading and parsing.
    """
    parts: list[bytes] = []  # of a line that goes on in another block: joined once, at its end
    held = dropped = 0  # bytes of it
    for block in blocks:
        stop = block.find(b"\n")
        if stop < 0:
            if held > LONGEST_LINE_BYTES:
                dropped += len(block)
                continue
            parts.append(block)
            held += len(block)
            continue
        line = b"".join([*parts, block[:stop]])
        yield offset, line.removeprefix(UTF8_MARK) if offset == 0 else line
        view, first = memoryview(block), offset + len(line) + dropped - stop  # the block's offset
        start = stop + 1
        while (stop := block.find(b"\n", start)) >= 0:
            yield first + start, view[start:stop]
            start = stop + 1
        parts, offset = [block[start:]], first + start
        held, dropped = len(parts[0]), 0
    if rest := b"".join(parts):
        yield offset, rest.removeprefix(UTF8_MARK) if offset == 0 else rest
