"""Sources of another layout than RedPajama's: anything with a column of text.

- A folder (or URL) of .parquet, .csv, .json and .jsonl files: a slice a file, read from where it
  lies (table_files.py).
- A folder of .txt and .md files and nothing else: a file a document (text_files.py).
- A dataset's name on the Hub: a slice a file, read from there (hub_dataset.py).
- A local folder written by ``save_to_disk``, or a dataset on the Hub that is in other files
  (downloaded into the cache of ``datasets``): slices of ``rows_per_slice`` rows, since its files
  are not the user's to see.
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NoReturn, cast
from urllib.parse import urlsplit

from mobilellama.config import ConfigError, DataError, one_line
from mobilellama.shards.dataset import Slice
from mobilellama.shards.source_file import FileState, SourceRange
from mobilellama.shards.sources.folders import left_out_text
from mobilellama.shards.sources.places import files_below, sizes_below
from mobilellama.shards.sources.remote import is_url
from mobilellama.tokenize.sources.config import LINES, SourcesConfig, require_few_slices
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.hub_dataset import cannot_open, find_hub_files, name_and_revision
from mobilellama.tokenize.sources.text_files import TEXT_ENDINGS, is_text_file, text_slices

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

_ENDINGS = (".parquet", ".json", *LINES, ".csv", ".csv.gz", ".csv.zst")
_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves
_ROWS_AT_ONCE = 256
_FOLDERS_SHOWN = 7


def find_table_slices(sources: SourcesConfig, slice_bytes: int) -> tuple[Slice, ...]:
    """Return the slices of ``sources.dataset``, all in one subset.

    Args:
        sources: the corpus.
        slice_bytes: of a slice of text files, at most, unless one file is larger.

    Raises:
        ConfigError: no such folder, dataset, split or column, or files not understood.
    """
    assert sources.dataset is not None
    folder = Path(sources.dataset)
    if is_url(sources.dataset):
        name = PurePosixPath(urlsplit(sources.dataset).path).name
        subset = sources.subset or name or urlsplit(sources.dataset).netloc
        return _file_slices(sources, sources.dataset, subset, slice_bytes)
    hub_name = PurePosixPath(name_and_revision(sources.dataset)[0]).name
    subset = sources.subset or (folder.resolve().name if folder.exists() else hub_name)
    if folder.is_dir() and not _is_saved(folder):
        return _file_slices(sources, sources.dataset, subset, slice_bytes)
    if folder.is_file():  # not asked for on the Hub, which would take half a minute offline
        rule = "is a file, but must be a folder or a dataset's name on the Hub"
        remedy = "Give the folder that holds the file"
        raise ConfigError("sources.dataset", sources.dataset, rule, remedy)
    if sources.is_hub_name and (slices := _hub_slices(sources, subset)):
        return slices
    rows = len(_open_rows(sources))
    count = -(-max(rows, 1) // sources.rows_per_slice)
    require_few_slices(count, "sources.rows_per_slice", sources.rows_per_slice)
    return tuple(
        Slice(
            subset=subset,
            bucket=bucket,
            source=sources.labelled(_rows_name(sources)),
            size=rows,
            start=start,
            end=min(start + sources.rows_per_slice, rows),
            unit="rows",
        )
        for bucket, start in enumerate(range(0, max(rows, 1), sources.rows_per_slice))
    )


def _file_slices(
    sources: SourcesConfig, folder: str, subset: str, slice_bytes: int
) -> tuple[Slice, ...]:
    sizes = files_below(folder)
    paths = sorted(sizes, key=str.encode)
    files = [path for path in paths if path.endswith(_ENDINGS)]
    others = [path for path in paths if not path.endswith(_ENDINGS)]
    if packed := [path for path in others if _is_compressed(path)]:
        _refuse_packed(folder, packed)
    if not files and (texts := {path: sizes[path] for path in paths if is_text_file(path)}):
        if beside := [path for path in others if path not in texts]:
            log.info("%s", left_out_text(beside))
        return text_slices(sources, texts, subset, slice_bytes)
    if not files:
        rule = f"holds no file that is one of {', '.join((*_ENDINGS, *TEXT_ENDINGS))}"
        raise ConfigError("sources.dataset", folder, rule, "Give its folder")
    if others:
        log.info("%s", left_out_text(others))
    _hint_at_subsets(folder, subset, files)
    return _whole_files(subset, {sources.labelled(path): sizes[path] for path in files})


def _hub_slices(sources: SourcesConfig, subset: str) -> tuple[Slice, ...]:
    """Return a slice for each file of a split on the Hub; none where it must be downloaded."""
    assert sources.dataset is not None
    if sources.download:
        return ()
    found = find_hub_files(
        sources.dataset, name=sources.name, split=sources.split, endings=_ENDINGS
    )
    if isinstance(found, str):
        log.info("%s: datasets downloads the whole split, because %s", sources.dataset, found)
        return ()
    sizes = sizes_below(found.url, found.paths)
    return _whole_files(
        subset,
        {sources.labelled(f"{found.folder}/{path}"): sizes[path] for path in found.paths},
    )


def _whole_files(subset: str, sizes: Mapping[str, int]) -> tuple[Slice, ...]:
    """Return a slice for each file, by the sizes of the sources, in their order."""
    return tuple(
        Slice(subset=subset, bucket=bucket, source=source, size=size, start=0, end=size)
        for bucket, (source, size) in enumerate(sizes.items())
    )


def _refuse_packed(folder: str, packed: Sequence[str]) -> NoReturn:
    rule = f"holds {packed[0]}, which is not one of {', '.join(_ENDINGS)}"
    raise ConfigError("sources.dataset", folder, rule, "Unpack or convert it")


def _hint_at_subsets(folder: str, subset: str, files: Sequence[str]) -> None:
    """Say that one subset is made of what may be a tree of subsets."""
    tops = sorted({path.split("/")[0] for path in files if path.endswith(LINES) and "/" in path})
    if len(tops) > 1 and all(path.endswith(LINES) and "/" in path for path in files):
        shown = ", ".join(tops[:_FOLDERS_SHOWN]) + ", ..." * (len(tops) > _FOLDERS_SHOWN)
        log.warning(
            "%s has folders of files of lines (%s), like RedPajama's tree. All of them become the "
            "subset '%s'. Give it as --sources.root to make a subset of each folder",
            folder, shown, subset,
        )  # fmt: skip


def _is_compressed(path: str) -> bool:
    """Return whether it is data all the same: a card or an image beside it is not."""
    return Path(path).suffix in (".gz", ".zst", ".bz2", ".xz", ".zip", ".arrow")


def read_rows(
    slice_: Slice, sources: SourcesConfig, counts: Counts
) -> Iterator[tuple[int, object]]:
    """Yield (row, value of the text column) of a slice of rows; `counts` says what was read.

    Raises:
        DataError: the table cannot be read, or has changed.
    """
    table = _open_rows(sources)
    if len(table) != slice_.size:
        raise DataError(
            f"{slice_.source}: {len(table):,} rows, but it had {slice_.size:,} when the plan "
            "was made. Tokenise into another output folder"
        )
    state, digest = _state_of(table), hashlib.sha256()
    for start in range(slice_.start, slice_.end, _ROWS_AT_ONCE):
        end = min(start + _ROWS_AT_ONCE, slice_.end)
        counts.source_read = end - slice_.start
        try:
            values = table[start:end][sources.text_column]
        except Exception as error:  # each format's library has errors of its own
            raise DataError(
                f"{slice_.source}: rows {start:,} to {end:,} cannot be read by datasets "
                f"({one_line(error)})"
            ) from error
        for row, value in enumerate(values, start):
            data = _bytes_of(value)
            digest.update(len(data).to_bytes(8, "little") + data)
            yield row, value
    if state is not None:
        counts.source_file = SourceRange(
            state=state, start=slice_.start, end=slice_.end, sha256=digest.hexdigest()
        ).to_json()


def _bytes_of(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    return value if isinstance(value, bytes) else repr(value).encode(errors="surrogatepass")


def _state_of(table: "datasets.Dataset") -> FileState | None:
    """Return the state of a table's files; None where they are not to be seen."""
    try:
        statuses = [os.stat(file["filename"]) for file in table.cache_files]
    except OSError:
        return None
    return FileState.of(statuses) if statuses else None


def rows_state(sources: SourcesConfig) -> FileState | None:
    """Return the state of the files of ``sources.dataset``, where it is sliced by rows."""
    return _state_of(_open_rows(sources))


def read_rows_again(slice_: Slice, sources: SourcesConfig) -> SourceRange | None:
    """Return what a slice of rows holds now, read anew."""
    _open_rows.cache_clear()
    counts = Counts()
    for _ in read_rows(slice_, sources, counts):
        pass
    return SourceRange.from_json(counts.source_file)


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _SAVED)


def _rows_name(sources: SourcesConfig) -> str:
    assert sources.dataset is not None
    name = Path(sources.dataset)
    shown = name.resolve().name if name.is_dir() else sources.dataset
    return "/".join(filter(None, (shown, sources.name))) + f":{sources.split}"


@lru_cache(maxsize=1)
def _open_rows(sources: SourcesConfig) -> "datasets.Dataset":
    """Return the split as a table that gives rows by number, once a process."""
    import datasets

    datasets.disable_progress_bars()
    assert sources.dataset is not None
    try:
        if _is_saved(Path(sources.dataset)):
            table = datasets.load_from_disk(sources.dataset)
            if isinstance(table, datasets.DatasetDict):
                table = table[sources.split]
        else:
            name, revision = name_and_revision(sources.dataset)
            loaded = datasets.load_dataset(
                name, sources.name, split=sources.split, revision=revision
            )
            table = cast(datasets.Dataset, loaded)  # a split's name gives one table
    except Exception as error:  # not found, no network, unknown split or configuration, ...
        raise cannot_open(sources.dataset, error) from None
    if sources.text_column not in table.column_names:
        rule = f"the dataset has no such column (it has {', '.join(table.column_names)})"
        raise ConfigError("sources.text_column", sources.text_column, rule, "Name one of them")
    return table
