"""The text column of a local file: parquet, JSON lines, or a JSON list.

    FILE.parquet    a row a document
    FILE.jsonl      an object a line; bad lines are counted, their places kept; .jsonl.gz,
                    .jsonl.zst, .json.gz and .json.zst are such files, packed
    FILE.csv        a row a document (csv_file.py); .csv.gz and .csv.zst, too
    FILE.json       a list of objects or of texts; an object a line; one object; or an object
                    of columns, each a list (as pandas writes it, or an object by row)

The files are read as they are: texts stay texts, whatever they look like.
"""

from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, BinaryIO

from mobilellama.config import DataError, one_line
from mobilellama.files.json_lines import (
    UTF8_MARK,
    NotJsonError,
    TooLongError,
    parse_document,
    parse_json,
    require_short,
)
from mobilellama.shards.dataset import Slice
from mobilellama.shards.sources.remote import SourcePath
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.csv_file import csv_texts
from mobilellama.tokenize.sources.json_list import holds_lines, read_elements
from mobilellama.tokenize.sources.lines import hash_whole, read_blocks
from mobilellama.tokenize.sources.slice_lines import file_lines
from mobilellama.tokenize.sources.texts import BadRecordError, LongRecordError, text_of_record

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 256
_START_BYTES = 1 << 20  # in which a list begins

Values = Iterator[tuple[int, object]]
"""(place, value of the text column, or the BadRecordError that says why there is none)."""


def read_file(
    file: BinaryIO, path: SourcePath, slice_: Slice, column: str, counts: Counts
) -> Values:
    """Yield the values of a file's text column, with byte offsets of lines, else row numbers.

    Raises:
        DataError: the file cannot be read, or has no such column.
    """
    if path.suffix == ".parquet":
        yield from _parquet_values(file, path, slice_, column, counts)
    elif ".csv" in PurePath(path.name).suffixes[-2:]:
        yield from csv_texts(file, path, slice_, column, counts)
        return
    elif path.suffix != ".json" or _is_lines(file):
        if path.name.endswith((".json.gz", ".json.zst")):
            _require_no_list(file, path)
        lines = file_lines(file, path, slice_, counts)
        yield from _of_objects(_parsed(lines), path, column)
        return
    else:
        yield from _of_objects(_json_values(file, path, column), path, column)
    counts.source_file = hash_whole(file, slice_.size).to_json()
    counts.source_read = slice_.size


def _parquet_values(
    file: BinaryIO, path: SourcePath, slice_: Slice, column: str, counts: Counts
) -> Values:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        if column not in names:
            raise _no_column(path, column, names)
        for batch in table.iter_batches(_ROWS_AT_ONCE, columns=[column]):
            values = decoded(batch.column(batch.schema.names.index(column)))
            yield from enumerate(values, row)
            row += len(values)
            counts.source_read = slice_.size * row // table.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: cannot be read as parquet, after row {row:,} ({one_line(error)}). "
            "Fetch the file again"
        ) from None


def decoded(column: "pa.Array") -> list[object]:
    """Return an Arrow column's values; strings that are not UTF-8 as the bytes they are."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        import pyarrow as pa

        plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        return plain.cast(pa.large_binary()).to_pylist()


def _require_no_list(file: BinaryIO, path: SourcePath) -> None:
    """Raise DataError if a packed .json file holds a list, which is read unpacked only."""
    file.seek(0)
    start = next((block for block in read_blocks(file, path) if block), b"")
    if start.removeprefix(UTF8_MARK).lstrip().startswith(b"["):
        raise DataError(f"{path}: holds a list, not an object a line. Unpack it")


def _is_lines(file: BinaryIO) -> bool:
    """Return whether a .json file holds an object a line; one that begins as a list does not."""
    file.seek(0)
    start = file.read(_START_BYTES).removeprefix(UTF8_MARK).lstrip()
    if start.startswith(b"["):
        return False
    file.seek(0)
    data = file.read().removeprefix(UTF8_MARK)
    return not data.strip() or holds_lines(data)


def _parsed(lines: Iterator[tuple[int, bytes | memoryview]]) -> Values:
    """Yield each line's value; blank lines are no records."""
    for offset, view in lines:
        line = bytes(view)
        if not line or line.isspace():
            continue
        try:
            require_short(line)
            yield offset, parse_json(line)
        except TooLongError as error:
            yield offset, LongRecordError(str(error))
        except NotJsonError as error:
            yield offset, BadRecordError(str(error))


def _json_values(file: BinaryIO, path: SourcePath, column: str) -> Values:
    file.seek(0)
    row = 0
    try:
        for value, _ in read_elements(file, path):
            yield row, _as_object(value, column)
            row += 1
        return
    except (ValueError, RecursionError):
        pass  # a reading of the whole says what is wrong, and where
    file.seek(0)
    value = parse_document(file.read(), path)
    rows = value if isinstance(value, list) else _rows_of(value, path, column)
    for number in range(row, len(rows)):
        yield number, _as_object(rows[number], column)


def _as_object(value: object, column: str) -> object:
    return {column: value} if isinstance(value, str) else value


def _rows_of(value: object, path: SourcePath, column: str) -> list[object]:
    """Return the records of a JSON file that is no list."""
    if not isinstance(value, dict):
        raise DataError(f"{path}: must hold a list of objects, or an object a line. Convert it")
    texts = value.get(column)
    if isinstance(texts, dict):
        texts = list(texts.values())
    return [{column: text} for text in texts] if isinstance(texts, list) else [value]


def _of_objects(values: Values, path: SourcePath, column: str) -> Values:
    """Yield the texts of objects, or why there is none.

    Raises:
        DataError: there are objects, and not one has the column.
    """
    has_column, names = False, dict[str, None]()
    for place, value in values:
        if not isinstance(value, BadRecordError):
            try:
                has_column = has_column or (isinstance(value, dict) and column in value)
                if not has_column and isinstance(value, dict):
                    names |= dict.fromkeys(value)
                value = text_of_record(value, column)
            except BadRecordError as error:
                value = error
        yield place, value
    if names and not has_column:
        raise _no_column(path, column, list(names))


def _no_column(path: SourcePath, column: str, names: list[str]) -> DataError:
    shown = ", ".join(names[:20]) + ", ..." * (len(names) > 20)
    return DataError(
        f"{path}: no column '{column}' (it has {shown}). Name one with --sources.text_column"
    )
