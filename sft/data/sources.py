r"""Where conversations come from: files, folders of them, and what ``datasets`` opens.

    FILE.json       a list of records, one object that wraps such a list, or one record
    FILE.jsonl      a record a line; also .jsonl.zst and .jsonl.gz, all frames of them
    FILE.parquet    a record a row
    FOLDER          its files of these endings, in byte order of their paths
    FOLDER          written by ``save_to_disk``
    NAME            of a dataset on the Hugging Face hub; only here the network is used

A source file is a slice, the unit of work, and makes one bucket, packed by itself: files of a few
conversations each leave more room empty than one file of them all. A record's place is written
``FILE:LINE`` (from 1, as editors count) or ``FILE[INDEX]`` (from 0, as JSON tools do).
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from mobilellama.config import ConfigError, DataError, one_line
from mobilellama.files.atomic import sha256_of_file, sha256_of_json
from mobilellama.files.hub_folder import may_be_on_hub
from mobilellama.files.json_lines import UTF8_MARK, parse_document
from mobilellama.sft.data.fields import canonical, says_nothing, unknown_fields
from mobilellama.sft.data.reasons import DropError
from mobilellama.sft.data.records import READ, Format, is_record, parse_line
from mobilellama.shards.dataset import Slice
from mobilellama.shards.sources.folders import left_out_text, walk_files
from mobilellama.tokenize.sources.json_list import holds_lines, read_elements
from mobilellama.tokenize.sources.lines import in_utf8, open_planned, read_blocks, split_lines
from mobilellama.tokenize.sources.table_files import decoded

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

log = logging.getLogger(__name__)

SUBSET = "conversations"
"""The dataset's only subset, so that an epoch is every row of every file once."""

_ENDINGS = (".json", ".jsonl", ".jsonl.zst", ".jsonl.gz", ".parquet")
_DATA_ALL_THE_SAME = (".arrow", ".bz2", ".csv", ".gz", ".tar", ".tsv", ".xz", ".zip", ".zst")
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json")  # which ``datasets`` leaves in folders
_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves
_START_BYTES = 1 << 20  # of a file, in which its first value begins
_ROWS_AT_ONCE = 256
_ROWS_OF_BYTES_AT_ONCE = 16  # a picture may be of megabytes


@dataclass(frozen=True, kw_only=True)
class ConversationsConfig:
    """The conversations."""

    path: str
    """A .json, .jsonl, .jsonl.zst, .jsonl.gz or .parquet file, a folder of them, a folder
    written by save_to_disk, or the name of a dataset on the Hugging Face hub."""
    format: Format = "auto"
    """Format of the records. auto: find it for each record, and drop a record that fits two."""
    name: str | None = None
    """Configuration of a dataset on the Hub. None: its only or default one."""
    split: str = "train"
    """Split of a dataset on the Hub, or of a save_to_disk folder."""

    @property
    def is_table(self) -> bool:
        """Whether ``datasets`` opens it: neither a file nor a folder of files."""
        path = Path(self.path)
        return not path.exists() or any((path / name).is_file() for name in _SAVED)

    def require_outside(self, output: str) -> None:
        """Raise ConfigError if `output` lies within the data, whose next reader would find it."""
        folder = Path(self.path)
        if folder.is_dir() and Path(output).resolve().is_relative_to(folder.resolve()):
            rule = f"lies within data.path = {self.path}"
            raise ConfigError("output", output, rule, "Put it beside the data")


@dataclass(frozen=True)
class SourceRecord:
    """One record of a source, not judged yet."""

    place: str
    value: object
    """The parsed JSON value or table row; bytes where it is a line to be parsed."""
    source_read: int
    """Bytes (or rows) of the source that are read with this record."""

    def parsed(self) -> object:
        """Return the value, of a line too.

        Raises:
            DropError: the line is not JSON, or not UTF-8.
        """
        return parse_line(self.value) if isinstance(self.value, bytes) else self.value


def find_slices(data: ConversationsConfig) -> tuple[Slice, ...]:
    """Return one slice for each source file, or one for a table.

    Raises:
        ConfigError: no such file, folder or dataset, nothing readable in it, or data that is not
            understood.
    """
    path = Path(data.path)
    if data.is_table:
        shown = path.resolve().name if path.is_dir() else data.path
        source = "/".join(filter(None, (shown, data.name))) + f":{data.split}"
        return (_slice(0, source, len(_open_table(data)), unit="rows"),)
    if path.is_file():
        if not path.name.endswith(_ENDINGS):
            rule = f"must end in one of {', '.join(_ENDINGS)}"
            raise ConfigError("data.path", data.path, rule, "Convert the file")
        return (_slice(0, path.name, path.stat().st_size),)
    files = sorted(_data_files(path), key=str.encode)
    if not files:
        rule = f"holds no file that ends in {', '.join(_ENDINGS)}"
        raise ConfigError("data.path", data.path, rule, "Give the folder of the files, or a file")
    return tuple(_slice(i, file, (path / file).stat().st_size) for i, file in enumerate(files))


def _slice(bucket: int, source: str, size: int, unit: str = "bytes") -> Slice:
    return Slice(
        subset=SUBSET, bucket=bucket, source=source, size=size, start=0, end=size, unit=unit
    )


def _data_files(folder: Path) -> Iterator[str]:
    others: list[str] = []
    for path in _walk(folder):
        if Path(path).name not in _DESCRIPTIONS and path.endswith(_ENDINGS):
            yield path
        elif path.endswith(_DATA_ALL_THE_SAME):
            rule = f"holds {path}, which does not end in one of {', '.join(_ENDINGS)}"
            raise ConfigError("data.path", str(folder), rule, "Convert it, or move it away")
        else:
            others.append(path)
    if others:
        log.info("%s", left_out_text(others))


def _walk(folder: Path) -> Iterator[str]:
    """Yield what ``walk_files`` does, and name our field where it refuses the folder."""
    try:
        yield from walk_files(folder)
    except ConfigError as error:
        _, value, rule, remedy = error.args
        raise ConfigError("data.path", value, rule, remedy) from None


def source_sha256(slice_: Slice, data: ConversationsConfig) -> str:
    """Return a sha256 that changes with a source's bytes, also where its size stays.

    Of a file its own, of a table that of its Arrow files; datasets' fingerprint, which hangs on
    when these were written, only stands for a table that is held in memory.
    """
    if slice_.unit == "bytes":
        return sha256_of_file(_path_of(slice_, data))
    table = _open_table(data)
    files = [sha256_of_file(Path(file["filename"])) for file in table.cache_files]
    return sha256_of_json(files or table._fingerprint)


def _path_of(slice_: Slice, data: ConversationsConfig) -> Path:
    given = Path(data.path)
    return given if given.is_file() else given / slice_.source


def read_records(slice_: Slice, data: ConversationsConfig) -> Iterator[SourceRecord]:
    """Yield the records of a slice, of ``find_slices(data)``, in their order.

    A table's row has all its columns: what is not read is judged by its name (fields.py). Of a
    column of bytes or times that is not read, such as a picture's, a row only has whether it is
    there.

    Raises:
        DataError: the source is missing, corrupt, truncated, in another encoding, or no longer
            what was planned.
    """
    if slice_.unit == "rows":
        yield from _table_rows(slice_, data)
        return
    path = _path_of(slice_, data)
    with open_planned(path, slice_.size) as file:
        if path.name.endswith(".parquet"):
            yield from _parquet_rows(file, path, slice_)
        elif path.name.endswith(".json"):
            yield from _json_records(file, path, slice_)
        else:
            yield from _lines(file, path, slice_)


def _lines(file: BinaryIO, path: Path, slice_: Slice) -> Iterator[SourceRecord]:
    """Yield the lines of a .jsonl file, unparsed; blank ones are no records."""
    blocks = in_utf8(read_blocks(file, path), path)
    for number, (_, line) in enumerate(split_lines(blocks, 0), 1):
        if line and not line.isspace():
            yield SourceRecord(f"{slice_.source}:{number}", line, file.tell())


def _json_records(file: BinaryIO, path: Path, slice_: Slice) -> Iterator[SourceRecord]:
    """Yield the records of a .json file; one that is no plain list is held in memory."""
    yielded, held = 0, None
    if file.read(_START_BYTES).removeprefix(UTF8_MARK).lstrip().startswith(b"["):
        file.seek(0)
        try:
            for i, (value, source_read) in enumerate(read_elements(file, path)):
                if held:
                    yield held
                held, yielded = SourceRecord(f"{slice_.source}[{i}]", value, source_read), i
            if held:
                yield replace(held, source_read=slice_.size)
            return
        except (ValueError, RecursionError):
            pass  # a reading of the whole says what is wrong, and where
    file.seek(0)
    data = file.read().removeprefix(UTF8_MARK)
    if holds_lines(data):
        log.info("%s holds a record a line", path)
        file.seek(0)
        yield from _lines(file, path, slice_)
        return
    records = _records_of(parse_document(data, path), path)
    del data
    for i, value in enumerate(records[yielded:], yielded):
        yield SourceRecord(f"{slice_.source}[{i}]", value, slice_.size * (i + 1) // len(records))


def _records_of(value: object, path: Path) -> list[object]:
    """Return the records of a whole file's value."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        if is_record(value):
            return [value]
        lists = [name for name, item in value.items() if isinstance(item, list)]
        if len(lists) == 1:
            _require_no_meaning({name: value[name] for name in value if name not in lists}, path)
            return value[lists[0]]
    held = "no list"
    if isinstance(value, dict):
        held = f"an object of {', '.join(map(str, value))}" if value else "an empty object"
    raise DataError(
        f"{path}: must hold a list of records, or one object with one list of them, but holds "
        f"{held}. Give the file of the conversations"
    )


def _require_no_meaning(beside: dict[str, object], path: Path) -> None:
    """Raise DataError where a field beside a file's list of records would change what they mean."""
    fields = {canonical(name): value for name, value in beside.items()}
    told = [name for name in fields if name in READ and not says_nothing(fields[name])]
    try:
        unknown = unknown_fields(fields, read=READ, level="record")
    except DropError as dropped:
        told.append(dropped.detail.removeprefix("it has "))
        unknown = []
    if told:
        raise DataError(
            f"{path}: has {told[0]} beside its list of records. There it would be lost. Put it "
            "into each record"
        )
    if unknown:
        log.info("%s: fields beside its list of records are not read: %s", path, ", ".join(unknown))


def _parquet_rows(file: BinaryIO, path: Path, slice_: Slice) -> Iterator[SourceRecord]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        table = pq.ParquetFile(file)
        total = max(table.metadata.num_rows, 1)
        for batch in table.iter_batches(_rows_at_once(table.schema_arrow)):
            for value in _rows(batch, str(path)):
                row += 1
                yield SourceRecord(f"{slice_.source}[{row - 1}]", value, slice_.size * row // total)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: cannot be read as parquet, after row {row:,} ({one_line(error)}). "
            "Fetch the file again"
        ) from None


def _rows_at_once(schema: "pa.Schema") -> int:
    held = any("binary" in str(kind) for kind in schema.types)
    return _ROWS_OF_BYTES_AT_ONCE if held else _ROWS_AT_ONCE


def _rows(batch: "pa.RecordBatch", source: str) -> list[dict[str, object]]:
    """Return the rows of an Arrow batch or table; see ``_values``."""
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[name] = _values(name, column)
        except (ValueError, OverflowError) as error:  # a date that Python has not
            raise DataError(
                f"{source}: the column {name} cannot be read ({one_line(error)}). Fix it"
            ) from None
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _values(name: str, column: "pa.Array") -> list[object]:
    """Return a column's values; of bytes and times that are not read, null or true.

    Bytes that are UTF-8 are text, as Spark and DuckDB often write it.
    """
    from pyarrow import types

    holds_bytes = "binary" in str(column.type)
    if canonical(name) not in READ and (holds_bytes or types.is_temporal(column.type)):
        return [there or None for there in _is_there(column)]
    values = decoded(column)
    if holds_bytes or any(isinstance(value, bytes) for value in values):
        return [_as_text(value) for value in values]
    return values


def _is_there(column: "pa.Array") -> list[bool]:
    """Return whether each value is neither null nor an empty list."""
    from pyarrow import types

    if types.is_list(column.type) or types.is_large_list(column.type):
        return [value.is_valid and len(value) > 0 for value in column]
    return column.is_valid().to_pylist()


def _as_text(value: object) -> object:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value  # which is no text, and is said of the record
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if isinstance(value, dict):
        return {name: _as_text(item) for name, item in value.items()}
    return value


def _table_rows(slice_: Slice, data: ConversationsConfig) -> Iterator[SourceRecord]:
    table = _open_table(data)
    if len(table) != slice_.size:
        raise DataError(
            f"{slice_.source}: {len(table):,} rows, but it had {slice_.size:,} when the plan was "
            "made. Prepare into another output folder"
        )
    row, at_once = 0, _rows_at_once(table.features.arrow_schema)
    for batch in table.with_format("arrow").iter(at_once):  # decodes no picture or sound
        for value in _rows(batch, slice_.source):
            row += 1
            yield SourceRecord(f"{slice_.source}[{row - 1}]", value, row)


def _open_table(data: ConversationsConfig) -> "Dataset":
    """Return the split as ``datasets`` opens it: rows by number.

    Raises:
        ConfigError: it cannot.
    """
    path = Path(data.path)
    if not path.exists() and not may_be_on_hub(data.path, owned=False):
        rule = "is neither a file nor a folder"
        raise ConfigError("data.path", data.path, rule, "Give the path of the conversations")
    import datasets

    datasets.disable_progress_bars()
    try:
        if not path.exists():
            return datasets.load_dataset(data.path, data.name, split=data.split)
        table = datasets.load_from_disk(data.path)
    except Exception as error:  # not found, no network, unknown split or configuration, ...
        _refuse_table(data, error)
    if isinstance(table, datasets.DatasetDict):
        if data.split not in table:
            rule = f"{data.path} has no such split (it has {', '.join(map(str, table))})"
            raise ConfigError("data.split", data.split, rule, "Name one of them")
        return table[data.split]
    return table


def _refuse_table(data: ConversationsConfig, error: Exception) -> NoReturn:
    rule = f"is not a file or folder, and datasets cannot open it ({one_line(error)})"
    if Path(data.path).exists():
        rule = f"cannot be opened by datasets ({one_line(error)})"
    remedy = "Give a local file or folder, or a dataset's name on the hub with its split"
    raise ConfigError("data.path", data.path, rule, remedy) from None
