"""Read single lines of the corpus, to show what stands where a record was bad.

A place in a receipt is a byte offset in the (unpacked) file, or the number of a row. The line's
number is counted from the file's beginning, and a .zst or .gz file is unpacked up to the place.
Both are done only within the first 256 MiB, so that a report does not take hours.
"""

import gzip
import io
from contextlib import ExitStack
from typing import BinaryIO

import zstandard

from mobilellama.config import ConfigError, DataError
from mobilellama.shards.dataset import Receipt, Slice
from mobilellama.shards.source_file import SourceRange
from mobilellama.shards.sources.located import locate, open_source, require_corpus, state_of
from mobilellama.shards.sources.remote import SourcePath

_REACH_BYTES = 1 << 28
_BLOCK_BYTES = 1 << 20
_CHARACTERS = 80
_LINE_BYTES = 4 * _CHARACTERS  # UTF-8 takes at most 4 bytes a character
_LINES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".json.gz", ".json.zst")


class SourceLines:
    """The lines of a corpus."""

    def __init__(self, sources: str) -> None:
        """Take the corpus, as ``tokenize run`` was given it.

        Raises:
            ConfigError: there is no such folder or file.
        """
        self._root = sources
        self._found, self._lacking = False, ""
        require_corpus(sources, "Give the corpus that the dataset was made of, or leave it out")

    @staticmethod
    def where(receipt: Receipt, place: int, line: int | None) -> str:
        """Return a place in words: the source, and the line, byte or record."""
        if not _has_lines(receipt):
            return f"{receipt.source}, record {place:,}"
        at = f"byte {place:,}"
        return (
            f"{receipt.source}, {at}" if line is None else f"{receipt.source}, line {line:,}, {at}"
        )

    def read(self, receipt: Receipt, place: int) -> tuple[int | None, str]:
        """Return the number of the line at a place (None: not counted), and its beginning.

        What hinders the reading is said in the place of the beginning, in brackets.
        """
        path = self._path(receipt)
        if not _has_lines(receipt):
            return None, ""
        state = state_of(path)
        if state is None:
            self._lacking = self._lacking or str(path)
            return None, f"[{path} is not there]"
        self._found = True
        known = SourceRange.from_json(receipt.source_file)
        if known is not None and known.state.size != state.size:
            return None, f"[{path} has another size than when it was read]"
        is_packed = path.suffix in (".zst", ".gz")
        if is_packed and place > _REACH_BYTES:
            return None, "[too far from the beginning of a compressed file]"
        try:
            with ExitStack() as stack:
                file = _opened(path, stack)
                number = None
                if place <= _REACH_BYTES:
                    number = 1 + _count_lines(file, place)
                else:
                    file.seek(place)
                data = file.read(_LINE_BYTES)
        except (OSError, EOFError, zstandard.ZstdError, DataError):
            return None, f"[{path} cannot be read]"
        if not data:  # zstandard takes a truncated file for one that ends there
            return None, f"[{path} ends before this place]"
        return number, data.partition(b"\n")[0].decode("utf-8", "replace")[:_CHARACTERS]

    def require_found(self) -> None:
        """Raise ConfigError if files were looked for and the corpus has none of them."""
        if self._lacking and not self._found:
            rule = f"holds none of the files with bad records, such as {self._lacking}"
            remedy = "Give the corpus that the dataset was made of, or leave it out"
            raise ConfigError("sources", self._root, rule, remedy)

    def _path(self, receipt: Receipt) -> SourcePath:
        slice_ = Slice(
            subset=receipt.subset, bucket=receipt.bucket, source=receipt.source,
            size=receipt.end, start=receipt.start, end=receipt.end, unit=receipt.unit,
        )  # fmt: skip
        return locate(slice_, self._root)[0]


def _has_lines(receipt: Receipt) -> bool:
    # A source of which another column than "text" was read is called FILE#COLUMN.
    file = receipt.source.rpartition("#")[0]
    return receipt.unit == "bytes" and (receipt.source.endswith(_LINES) or file.endswith(_LINES))


def _opened(path: SourcePath, stack: ExitStack) -> BinaryIO:
    file = stack.enter_context(open_source(path))
    if path.suffix == ".zst":
        # 2**31 is the largest window there is: files packed with --long=31 need it.
        opened = zstandard.ZstdDecompressor(max_window_size=2**31)
        return io.BufferedReader(opened.stream_reader(file, read_across_frames=True), _BLOCK_BYTES)
    return io.BufferedReader(gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file


def _count_lines(file: BinaryIO, end: int) -> int:
    """Read up to a place, and return how many lines end before it."""
    lines = 0
    while end and (block := file.read(min(end, _BLOCK_BYTES))):
        lines += block.count(b"\n")
        end -= len(block)
    return lines
