"""Read the records of a slice of the source in the plainest way.

This is a second reading beside that of 'tokenize run', on purpose: an audit that used the same code
would repeat its mistakes. It follows the rules of the format alone:

1. A slice of a .jsonl file has the lines whose first byte lies in its range. Other files are one
   slice, from their first record to their last; those that are compressed are unpacked on the way.
2. A record without a string in the text column, and a line that is not JSON, give no document.
   Neither does an empty text, nor a line or a text that is too long.
3. Half a surrogate pair becomes U+FFFD.
"""

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

import zstandard

from mobilellama.config import ConfigError, DataError, one_line
from mobilellama.files.json_lines import (
    LONGEST_LINE_BYTES,
    UTF8_MARK,
    NotJsonError,
    parse_json,
    require_short,
)
from mobilellama.shards.audit.other_files import csv_values, text_file_values, unpacked
from mobilellama.shards.dataset import Slice
from mobilellama.shards.sources.located import locate, open_source, state_of
from mobilellama.shards.sources.remote import SourcePath

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

_SURROGATE = re.compile("[\ud800-\udfff]")
_ROWS_AT_ONCE = 256
_HELD_BYTES = LONGEST_LINE_BYTES + 8  # of a line: a mark, a line end, and what is too long
_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves
_GIVE_THE_CORPUS = "Give the corpus that the dataset was made of"


class AuditedRecord(NamedTuple):
    """A record of the source, good or bad."""

    text: str
    """Empty where the record gives no document."""
    skipped: str
    """Why it gives no document; empty where it gives one."""
    place: int
    """A line's first byte in the (unpacked) file, or the number of a row, from 0."""
    read: int
    """Bytes (or rows) of the slice that were read up to the end of it."""


def read_records(slice_: Slice, sources: str) -> Iterator[AuditedRecord]:
    """Yield the records of a slice.

    Args:
        slice_: of the plan.
        sources: the corpus, as ``shards audit`` was given it.

    Raises:
        ConfigError: the corpus has no such file or dataset.
        DataError: the source cannot be read, or has another size than when the plan was made.
    """
    if slice_.unit == "rows":
        for row, value in _table_values(slice_, sources):
            yield AuditedRecord(*_text_of(value), place=row, read=row + 1 - slice_.start)
        return
    if slice_.unit == "files":
        for number, value in enumerate(text_file_values(slice_, sources), slice_.start):
            read = number + 1 - slice_.start
            yield AuditedRecord(*_text_of(value), place=number, read=read)
        return
    path, column = locate(slice_, sources)
    if (state := state_of(path)) is None:
        rule = f"holds no {path}, of which bucket {slice_.name} was made"
        raise ConfigError("sources", sources, rule, _GIVE_THE_CORPUS)
    _require_size(path, state.size, slice_)
    with open_source(path) as file:
        if path.suffix == ".parquet":
            yield from _listed(_parquet_values(file, path, column), file)
        elif ".csv" in PurePath(path.name).suffixes[-2:]:
            yield from _listed(csv_values(file, path, column), file)
        elif path.suffix == ".json" and (values := _json_values(file.read(), column)) is not None:
            yield from _listed(values, file)
        else:
            yield from _lines(file, path, slice_, column)


def _require_size(source: object, size: int, slice_: Slice) -> None:
    if size != slice_.size:
        raise DataError(
            f"{source}: {size:,} {slice_.unit}, but it had {slice_.size:,} when bucket "
            f"{slice_.name} was made. Restore it, or make another dataset"
        )


def _lines(file: BinaryIO, path: SourcePath, slice_: Slice, column: str) -> Iterator[AuditedRecord]:
    lines, end = file, slice_.end
    file.seek(max(slice_.start - 1, 0))
    if slice_.start > 0:
        while (part := file.readline(_HELD_BYTES)) and not part.endswith(b"\n"):
            pass  # the end of a line of the slice before
    at = file.tell()
    if path.suffix in (".zst", ".gz"):
        lines = unpacked(file, path)
        end = None  # of the unpacked content
    try:
        while (end is None or at < end) and (line := lines.readline(_HELD_BYTES)):
            text, skipped = _text_of_line(line.removeprefix(UTF8_MARK) if at == 0 else line, column)
            length = len(line)
            while len(line) == _HELD_BYTES and not line.endswith(b"\n"):  # the rest of a long line
                line = lines.readline(_HELD_BYTES)
                length += len(line)
            yield AuditedRecord(text, skipped, place=at, read=file.tell() - slice_.start)
            at += length
    except (zstandard.ZstdError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: corrupt ({one_line(error)}). Fetch the file again") from None


def _listed(values: Iterable[object], file: BinaryIO) -> Iterator[AuditedRecord]:
    for row, value in enumerate(values):
        yield AuditedRecord(*_text_of(value), place=row, read=file.tell())


def _parquet_values(file: BinaryIO, path: SourcePath, column: str) -> Iterator[object]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(file).iter_batches(_ROWS_AT_ONCE, columns=[column]):
            yield from _as_bytes(batch.column(batch.schema.names.index(column))).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as parquet ({one_line(error)}). Fetch the file again"
        ) from None


def _as_bytes(column: "pa.Array") -> "pa.Array":
    """Return texts as the bytes that they are: Arrow does not look whether they are UTF-8."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    texts = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return column.cast(pa.large_binary()) if texts else column


def _json_values(data: bytes, column: str) -> Iterable[object] | None:
    """Return the texts of a JSON file that is one value; None if it holds a value a line."""
    try:
        value = parse_json(data.removeprefix(UTF8_MARK))
    except NotJsonError:
        return None
    if isinstance(value, dict):
        texts = value.get(column)
        if isinstance(texts, list):
            return texts
        return texts.values() if isinstance(texts, dict) else [texts]
    if not isinstance(value, list):
        return None
    return [one.get(column) if isinstance(one, dict) else one for one in value]


def _table_values(slice_: Slice, sources: str) -> Iterator[tuple[int, object]]:
    name, _, rest = slice_.source.partition(":")
    split, mark, column = rest.rpartition("#")
    split, column = (split, column) if mark else (rest, "text")
    config = name.removeprefix(sources).removeprefix("/") if name.startswith(sources) else ""
    table = _open_table(sources, config or None, split)
    if column not in table.column_names:
        rule = f"has no column '{column}' (it has {', '.join(table.column_names)})"
        raise ConfigError("sources", sources, rule, _GIVE_THE_CORPUS)
    _require_size(sources, len(table), slice_)
    for start in range(slice_.start, slice_.end, _ROWS_AT_ONCE):
        end = min(start + _ROWS_AT_ONCE, slice_.end)
        yield from enumerate(table[start:end][column], start)


@lru_cache(maxsize=1)
def _open_table(sources: str, config: str | None, split: str) -> "datasets.Dataset":
    import datasets

    datasets.disable_progress_bars()
    try:
        if any((Path(sources) / name).is_file() for name in _SAVED):
            saved = datasets.load_from_disk(sources)
            return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        return cast(datasets.Dataset, datasets.load_dataset(sources, config, split=split))
    except Exception as error:  # not found, no network, unknown split or configuration, ...
        rule = f"cannot be opened by datasets ({one_line(error)})"
        raise ConfigError("sources", sources, rule, _GIVE_THE_CORPUS) from None


def _text_of_line(line: bytes, column: str) -> tuple[str, str]:
    try:
        require_short(line.removesuffix(b"\n"))
        record = parse_json(line)
    except NotJsonError as error:
        return "", str(error).partition(" (")[0]  # its place would make each reason another
    return _text_of(record.get(column)) if isinstance(record, dict) else ("", "not an object")


def _text_of(value: object) -> tuple[str, str]:
    """Return (text, "") or ("", why there is none)."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return "", "invalid UTF-8"
    if not isinstance(value, str):
        return "", "no text"
    text = _SURROGATE.sub("\ufffd", value)
    if len(text) > LONGEST_LINE_BYTES // 4 and len(text.encode()) > LONGEST_LINE_BYTES:
        return "", "too long"
    return text, "" if text else "empty text"
