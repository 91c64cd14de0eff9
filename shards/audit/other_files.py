"""The plainest reading of .csv files and of folders of texts, for the audit."""

import csv
import gzip
import io
from collections.abc import Iterator
from typing import BinaryIO

import zstandard

from mobilellama.config import DataError
from mobilellama.files.json_lines import LONGEST_LINE_BYTES, UTF8_MARK
from mobilellama.shards.dataset import Slice
from mobilellama.shards.sources.located import open_source
from mobilellama.shards.sources.places import files_below, path_below
from mobilellama.shards.sources.remote import SourcePath


def unpacked(file: BinaryIO, path: SourcePath) -> BinaryIO:
    """Return a file's content, unpacked if its name ends in .zst or .gz."""
    if path.suffix == ".zst":
        # 2**31 is the largest window there is: files packed with --long=31 need it.
        opened = zstandard.ZstdDecompressor(max_window_size=2**31)
        return io.BufferedReader(opened.stream_reader(file, read_across_frames=True), 1 << 20)
    return gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file  # type: ignore[return-value]


def csv_values(file: BinaryIO, path: SourcePath, column: str) -> Iterator[object]:
    """Yield what each row has in a column; None for a row that is none, bytes if not UTF-8."""
    content = unpacked(file, path)
    lines = io.TextIOWrapper(content, "utf-8-sig", errors="surrogateescape", newline="\n")
    csv.field_size_limit(LONGEST_LINE_BYTES)
    rows = csv.reader(lines, strict=True)
    heading = next(rows, [column])
    while True:
        try:
            row = next(rows, None)
        except csv.Error:
            yield None
            continue
        if row is None:
            return
        if row:
            text = row[heading.index(column)] if len(row) == len(heading) else None
            yield None if text is None else text.encode(errors="surrogateescape")


def text_file_values(slice_: Slice, folder: str) -> Iterator[object]:
    """Yield the content of each text file of a slice.

    Raises:
        DataError: the folder has another number of texts than when the plan was made.
    """
    shown = sorted(
        (path for path in files_below(folder) if path.endswith((".txt", ".md"))), key=str.encode
    )
    if len(shown) != slice_.size:
        raise DataError(
            f"{folder}: {len(shown):,} text files, but it had {slice_.size:,} when bucket "
            f"{slice_.name} was made. Restore it, or make another dataset"
        )
    for path in shown[slice_.start : slice_.end]:
        with open_source(path_below(folder, path)) as file:
            yield file.read().removeprefix(UTF8_MARK)
