r"""Read a slice: bytes -> lines -> records -> batches of texts, counting what is bad.

1. ``.jsonl``: blocks of the byte range; it owns the lines whose first byte lies in it.
   ``.jsonl.zst``: all of the file, unpacked. See lines.py.
2. orjson parses; what it refuses (NaN, lone surrogates) goes to the standard library.
3. A record that gives no text is counted, its place kept, and left out.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from mobilellama.config import DataError
from mobilellama.json_lines import NotJsonError, parse_json
from mobilellama.shards.dataset import Slice
from mobilellama.tokenize.lines import HashedRange, in_utf8, open_planned, read_blocks, split_lines
from mobilellama.tokenize.sources import ZSTD, SourcesConfig

LEAST_BAD_RECORDS = 10
"""So many bad records of a slice are let pass, whatever `max_bad_share` says."""

_BATCH_BYTES = 1 << 20  # of text: small enough for steady progress, large enough to be cheap
_BAD_PLACES = 10_000  # kept in a receipt; the count goes on
_BAD_PLACES_SHOWN = 3
_SURROGATE = re.compile("[\ud800-\udfff]")


class BadRecordError(Exception):
    """A record that gives no text; the message is the reason."""


@dataclass
class Counts:
    """What was read of a slice so far."""

    source_read: int = 0
    """Bytes of the file (as it lies on disk) or rows, in the slice's unit."""
    records: int = 0
    bad_records: int = 0
    bad_places: list[list[Any]] = field(default_factory=list)
    """[place, reason] of the first 10,000 bad records."""
    empty_texts: int = 0
    replaced_surrogates: int = 0
    bytes_in: int = 0
    """UTF-8 bytes of the texts."""
    source_file: dict[str, Any] = field(default_factory=dict)
    """At the slice's end, what was read: see ``SourceRange.to_json``."""

    def require_few_bad(self, source: str, max_bad_share: float) -> None:
        """Raise DataError if more records were bad than `max_bad_share` allows."""
        allowed = max(LEAST_BAD_RECORDS, int(max_bad_share * self.records))
        if self.bad_records <= allowed:
            return
        first = "; ".join(
            f"at {place:,}: {reason}" for place, reason in self.bad_places[:_BAD_PLACES_SHOWN]
        )
        raise DataError(
            f"{source}: {self.bad_records:,} of {self.records:,} records are bad, more than the "
            f"{allowed:,} that max_bad_share = {max_bad_share} allows ({first}). "
            "Mend the file, or raise --max_bad_share"
        )


def read_documents(piece: Slice, sources: SourcesConfig, counts: Counts) -> Iterator[list[str]]:
    """Yield the slice's texts in their order, in batches of about 1 MiB.

    `counts` is current whenever a batch is yielded.

    Raises:
        DataError: the source is missing, corrupt, truncated, or no longer what was planned.
    """
    if sources.dataset is not None:
        from mobilellama.tokenize.tables import read_rows

        text_of = partial(require_text, column=sources.text_column)
        yield from _batches(read_rows(piece, sources, counts), text_of, counts)
        return
    assert sources.root is not None
    path = Path(sources.root) / sources.unlabelled(piece.source)
    text_of = partial(parse_text, column=sources.text_column)
    with open_planned(path, piece.size) as file:
        yield from _batches(file_lines(file, path, piece, counts), text_of, counts)


def _batches(
    items: Iterator[tuple[int, Any]], text_of: Callable[[Any], str], counts: Counts
) -> Iterator[list[str]]:
    batch: list[str] = []
    batch_bytes = 0
    for place, item in items:
        counts.records += 1
        try:
            text = text_of(item)
        except BadRecordError as reason:
            counts.bad_records += 1
            if len(counts.bad_places) < _BAD_PLACES:
                counts.bad_places.append([place, str(reason)])
            continue
        if not text:
            counts.empty_texts += 1
            continue
        try:
            size = len(text) if text.isascii() else len(text.encode())
        except UnicodeEncodeError:  # JSON may spell half a surrogate pair; UTF-8 may not
            text = _SURROGATE.sub("\ufffd", text)
            counts.replaced_surrogates += 1
            size = len(text.encode())
        counts.bytes_in += size
        batch.append(text)
        batch_bytes += size
        if batch_bytes >= _BATCH_BYTES:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch


def parse_text(line: bytes, column: str) -> str:
    r"""Return the text of a JSON line (without its ``\n``); lone surrogates are left in.

    Raises:
        BadRecordError: not JSON, not UTF-8, not an object, or no string in `column`.
    """
    try:
        record = parse_json(line)
    except NotJsonError as error:
        raise BadRecordError(str(error)) from None
    if not isinstance(record, dict):
        raise BadRecordError(f"not an object but {_json_type(record)}")
    if column not in record:
        raise BadRecordError(f"no '{column}'")
    return require_text(record[column], column)


def require_text(value: Any, column: str) -> str:
    """Return `value` if it is a string.

    Raises:
        BadRecordError: it is something else.
    """
    if not isinstance(value, str):
        raise BadRecordError(f"'{column}' is not a string but {_json_type(value)}")
    return value


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", type(None): "null"}
    return names.get(type(value), "a boolean" if isinstance(value, bool) else "a number")


def file_lines(
    file: BinaryIO, path: Path, piece: Slice, counts: Counts
) -> Iterator[tuple[int, bytes]]:
    """Yield (byte offset, line) of the lines whose first byte lies in the slice's range.

    At their end, `counts` says what was read.

    Raises:
        DataError: the file is corrupt, truncated, or in another encoding.
    """
    # One byte early: if that is the end of a line, the line after it is the range's own.
    start = max(piece.start - 1, 0)
    file.seek(start)
    source = HashedRange(file, piece.start, piece.end)
    blocks = _counted_blocks(source, path, piece, counts)
    lines = split_lines(in_utf8(blocks, path) if start == 0 else blocks, start)
    if piece.start > 0:
        next(lines, None)
    has_lines, others_start = False, piece.size
    for offset, line in lines:
        if offset >= piece.end and not _is_packed(path):
            others_start = offset
            break
        has_lines = True
        yield offset, line
    # The last line may end within the next slice's range.
    counts.source_file = source.hashed(others_start if has_lines else piece.end).to_json()


def _is_packed(path: Path) -> bool:
    """Return whether offsets are those of the unpacked content, of which a slice is all."""
    return path.name.endswith(ZSTD)


def _counted_blocks(
    source: HashedRange, path: Path, piece: Slice, counts: Counts
) -> Iterator[bytes]:
    """Yield the file's blocks from where it stands, with `counts` current at each."""
    start = source.tell()
    for block in read_blocks(source, path):
        counts.source_read = min(source.tell() - start, piece.end - piece.start)
        yield block
