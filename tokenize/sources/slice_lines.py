"""The lines of a slice of a file; what was read of it is hashed on the way."""

import math
from collections.abc import Iterator
from typing import BinaryIO

from mobilellama.shards.dataset import Slice
from mobilellama.shards.sources.remote import SourcePath
from mobilellama.tokenize.sources.config import is_packed
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.lines import HashedRange, in_utf8, read_blocks, view_lines


def file_lines(
    file: BinaryIO, path: SourcePath, slice_: Slice, counts: Counts
) -> Iterator[tuple[int, bytes | memoryview]]:
    """Yield (byte offset, line) of the lines whose first byte lies in the slice's range.

    At their end, `counts` says what was read.

    Raises:
        DataError: the file is corrupt, truncated, or in another encoding.
    """
    # One byte early: if that is the end of a line, the line after it is the range's own.
    start = max(slice_.start - 1, 0)
    file.seek(start)
    source = HashedRange(file, slice_.start, slice_.end)
    blocks = _counted_blocks(source, path, slice_, counts)
    lines = view_lines(in_utf8(blocks, path) if start == 0 else blocks, start)
    if slice_.start > 0:
        next(lines, None)
    has_lines, others_start = False, slice_.size
    # Offsets of packed lines are those of the unpacked content, of which a slice is all.
    end = math.inf if is_packed(path.name) else slice_.end
    for offset, line in lines:
        if offset >= end:
            others_start = offset
            break
        has_lines = True
        yield offset, line
    # The last line may end within the next slice's range.
    counts.source_file = source.hashed(others_start if has_lines else slice_.end).to_json()


def _counted_blocks(
    source: HashedRange, path: SourcePath, slice_: Slice, counts: Counts
) -> Iterator[bytes]:
    """Yield the file's blocks from where it stands, with `counts` current at each."""
    start = source.tell()
    for block in read_blocks(source, path):
        counts.source_read = min(source.tell() - start, slice_.end - slice_.start)
        yield block
