r"""The text column of a .csv file: comma-separated fields, the names of the columns first.

1. A field in double quotes may hold commas, line breaks, and quotes that are doubled.
2. A row has the place of its first byte. One with more or fewer fields than the heading, with
   text after a closing quote, or with a text that is not UTF-8 is a bad record.
3. A quote that is never closed would take the rest of the file for its field: that is an error.
   So is a line longer than ``LONGEST_LINE_BYTES``: its end is not held.
"""

import csv
import re
from collections.abc import Iterator
from typing import BinaryIO

from mobilellama.config import DataError
from mobilellama.files.json_lines import LONGEST_LINE_BYTES
from mobilellama.shards.dataset import Slice
from mobilellama.shards.sources.remote import SourcePath
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.lines import HashedRange, in_utf8, read_blocks, split_lines
from mobilellama.tokenize.sources.texts import BadRecordError

_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # as which Python keeps bytes that are no text
_NAMES_SHOWN = 20


class _Lines:
    """The lines of a file, and where the first one that was taken lately begins."""

    def __init__(self, lines: Iterator[tuple[int, bytes]], path: SourcePath) -> None:
        self._lines, self._path = lines, path
        self.first: int | None = None

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        offset, line = next(self._lines)
        if len(line) > LONGEST_LINE_BYTES:  # its end is not held: a field would be cut in silence
            raise DataError(
                f"{self._path}: the line at byte {offset:,} has more than "
                f"{LONGEST_LINE_BYTES:,} bytes. Split or remove it"
            )
        if self.first is None:
            self.first = offset
        return line.decode(errors="surrogateescape") + "\n"


def csv_texts(
    file: BinaryIO, path: SourcePath, slice_: Slice, column: str, counts: Counts
) -> Iterator[tuple[int, str | BadRecordError]]:
    """Yield (offset, text) of the rows of a .csv file, or why there is none.

    At their end, `counts` says what was read.

    Raises:
        DataError: the file is corrupt, in another encoding, has no such column, has a quote
            that is never closed, or a line that is too long.
    """
    source = HashedRange(file, 0, slice_.end)
    file.seek(0)
    rows = _rows(source, path, counts)
    _, heading = next(rows, (0, [column]))
    if isinstance(heading, BadRecordError):
        raise DataError(f"{path}: its first line, the names of the columns: {heading}. Fix it")
    if column not in heading:
        shown = ", ".join(heading[:_NAMES_SHOWN]) + ", ..." * (len(heading) > _NAMES_SHOWN)
        raise DataError(
            f"{path}: no column '{column}' (it has {shown}). Name one with --sources.text_column"
        )
    number = heading.index(column)
    for offset, row in rows:
        if isinstance(row, BadRecordError):
            yield offset, row
        elif len(row) != len(heading):
            reason = f"{len(row):,} fields, but the heading has {len(heading):,}"
            yield offset, BadRecordError(reason)
        elif _NOT_UTF8.search(row[number]):
            yield offset, BadRecordError(f"'{column}' is not UTF-8")
        else:
            yield offset, row[number]
    counts.source_file = source.hashed(slice_.end).to_json()
    counts.source_read = slice_.end


def heading_of(file: BinaryIO, path: SourcePath) -> list[str]:
    """Return the names of the columns of a .csv file; none if it is empty.

    Raises:
        DataError: the file is corrupt, or in another encoding.
    """
    _, row = next(_rows(HashedRange(file, 0, 0), path, Counts()), (0, []))
    return [] if isinstance(row, BadRecordError) else row


def _rows(
    source: HashedRange, path: SourcePath, counts: Counts
) -> Iterator[tuple[int, list[str] | BadRecordError]]:
    """Yield (offset, fields) of each row, the heading's too; blank lines are no rows."""

    def blocks() -> Iterator[bytes]:
        for block in read_blocks(source, path):
            counts.source_read = source.tell()
            yield block

    csv.field_size_limit(LONGEST_LINE_BYTES)  # of the process; Python's own is 128 KiB
    lines = _Lines(split_lines(in_utf8(blocks(), path), 0), path)
    reader = csv.reader(lines, strict=True)
    while True:
        lines.first = None
        try:
            row = next(reader, None)
        except csv.Error as error:
            offset = lines.first or 0
            if "field limit" in str(error):  # what follows in the field would pass for rows
                raise DataError(
                    f"{path}: a field of the row at byte {offset:,} has more than "
                    f"{LONGEST_LINE_BYTES:,} characters. Split or remove it"
                ) from None
            if "unexpected end of data" in str(error):
                raise DataError(
                    f"{path}: a quote of the row at byte {offset:,} is never closed. "
                    "Close it, or fetch the file again"
                ) from None
            yield offset, BadRecordError(f"not CSV ({error})")
            continue
        if row is None:
            return
        if row:
            yield lines.first or 0, row
