"""How a corpus is cut into slices, the units of work.

RedPajama's layout (``sources.root``):

    ROOT/SUBSET/**/*.jsonl       one record a line, cut into byte ranges where it is large
    ROOT/SUBSET/**/*.jsonl.zst   one slice each; so are .jsonl.gz, .json.gz, .json.zst

The subset is the first folder below the root, never what a record says: the field
``red_pajama_subset`` is added by one loader and stands in no file. Slices are numbered within
a subset in byte order of path, then offset.

Anything else (``sources.dataset``) is read by ``datasets``: see tables.py.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import BinaryIO, cast

from mobilellama.config import ConfigError, UserError
from mobilellama.files.json_lines import UTF8_MARK, NotJsonError, parse_json
from mobilellama.shards.dataset import DATASET, MANIFEST, PLAN, TOKENIZER, Slice
from mobilellama.shards.sources.folders import left_out_text
from mobilellama.shards.sources.places import files_below, is_folder
from mobilellama.shards.sources.remote import RemotePath, SourcePath
from mobilellama.tokenize.sources.config import JSONL, LINES, SourcesConfig, require_few_slices
from mobilellama.tokenize.sources.counts import LEAST_BAD_RECORDS
from mobilellama.tokenize.sources.csv_file import heading_of
from mobilellama.tokenize.sources.json_list import read_elements
from mobilellama.tokenize.sources.lines import in_utf8, read_blocks, split_lines
from mobilellama.tokenize.sources.tables import find_table_slices

log = logging.getLogger(__name__)

_START_BYTES = 1 << 20  # of a file: unless a text is longer, several records
_NAMES_SHOWN = 20

# Files that lie beside the data and are no data: checksums, licences, lists of addresses.
_NOTES = ("", ".md", ".rst", ".txt", ".sha256")


def find_slices(sources: SourcesConfig, slice_bytes: int) -> tuple[Slice, ...]:
    """Return the slices of a corpus, in order of subset, then bucket.

    Args:
        sources: the corpus.
        slice_bytes: uncompressed files larger than this are cut into ranges of this size.

    Raises:
        ConfigError: no such folder or dataset, no files, files that are not understood, or more
            than a million slices; or no record has the text column.
    """
    if sources.dataset is not None:
        slices = find_table_slices(sources, slice_bytes)
        require_text_column(sources, slices)
        _require_free_names({slice_.subset for slice_ in slices}, "sources.subset")
        return slices
    assert sources.root is not None
    slices = _find_root_slices(sources, sources.root, slice_bytes)
    require_text_column(sources, slices)
    _require_free_names({slice_.subset for slice_ in slices}, "sources.root")
    return slices


def _require_free_names(subsets: Iterable[str], field: str) -> None:
    """Raise ConfigError if a subset's folder would stand where a file of the dataset must."""
    for subset in sorted(subsets):
        if subset in (PLAN, TOKENIZER, MANIFEST, DATASET):
            rule = "is the name of a file in every dataset folder"
            raise ConfigError(field, subset, rule, "Rename the subset")


def _find_root_slices(sources: SourcesConfig, root: str, slice_bytes: int) -> tuple[Slice, ...]:
    if not is_folder(root):
        rule = "is not a folder"
        raise ConfigError("sources.root", root, rule, "Give the corpus's root folder")
    count = 0
    subsets: dict[str, list[Slice]] = {}
    sizes = files_below(root)
    for path in sorted(_data_files(root, sizes), key=os.fsencode):
        subset = path.split("/")[0]
        slices = subsets.setdefault(subset, [])
        size = sizes[path]
        step = slice_bytes if path.endswith(JSONL) else max(size, 1)
        count += -(-max(size, 1) // step)
        require_few_slices(count, "slice_bytes", slice_bytes)
        # An empty file is a slice too: bucket numbers must not depend on content.
        for start in range(0, max(size, 1), step):
            slices.append(
                Slice(
                    subset=subset,
                    bucket=len(slices),
                    source=sources.labelled(path),
                    size=size,
                    start=start,
                    end=min(start + step, size),
                )
            )
    if not subsets:
        rule = f"holds no file in a subset's folder that is one of {', '.join(LINES)}"
        raise ConfigError("sources.root", root, rule, "Give the corpus's root folder")
    return tuple(slice_ for subset in sorted(subsets) for slice_ in subsets[subset])


def _data_files(root: str, paths: Iterable[str]) -> Iterator[str]:
    """Yield the paths of the data files, relative to the root, with '/' between the parts."""
    notes: list[str] = []
    for path in paths:
        if path.endswith(LINES):
            if "/" not in path:
                rule = f"{path} lies directly in it, but must be in the folder of its subset"
                remedy = "Move it into a folder with the subset's name, or give the folder above"
                raise ConfigError("sources.root", root, rule, remedy)
            yield path
        elif Path(path).suffix in _NOTES:
            notes.append(path)
        else:
            rule = f"{path} ends in {Path(path).suffix}, but must be one of {', '.join(LINES)}"
            raise ConfigError("sources.root", root, rule, "Convert it, or move it away")
    if notes:
        log.info("%s", left_out_text(notes))


def require_text_column(sources: SourcesConfig, slices: Sequence[Slice]) -> None:
    """Raise ConfigError where the first file of a kind has records, and none has the text column.

    A wrong name is told once, here; in the workers every slice would fail of it. Only the
    beginning of a few files is read. What cannot be read there says nothing: the worker that reads
    all of the file tells what is wrong with it.

    Of a tree of subsets that is the first file of each subset. There records without a text are
    counted as bad, and a few may be: so few say nothing.
    """
    seen: set[tuple[str, str]] = set()
    for slice_ in slices:
        path = sources.path_of(slice_)
        kind = (slice_.subset, path.suffix)
        if slice_.unit != "bytes" or not slice_.size or kind in seen:
            continue
        seen.add(kind)
        least = 1 if sources.root is None else LEAST_BAD_RECORDS + 1
        try:
            names = _other_names(path, sources.text_column, least)
        except (UserError, OSError, ValueError, RecursionError):
            continue
        if names:
            more = ", ..." if len(names) > _NAMES_SHOWN else ""
            shown = ", ".join(names[:_NAMES_SHOWN]) + more
            rule = f"{path} has no such column (it has {shown})"
            raise ConfigError("sources.text_column", sources.text_column, rule, "Name one of them")


def _other_names(path: SourcePath, column: str, least: int) -> list[str]:
    """Return the columns of a file that has records, but not this column; else an empty list."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with _opened(path) as file:
                found = pq.read_schema(file).names
        except pa.ArrowException:
            return []
        return [] if column in found else found
    if ".csv" in PurePath(path.name).suffixes[-2:]:
        with _opened(path) as file:
            found = heading_of(file, path)
        return [] if column in found else found
    names: dict[str, None] = {}
    records = 0
    for value in _first_values(path):
        if isinstance(value, str) or (isinstance(value, dict) and column in value):
            return []
        if isinstance(value, dict):
            names |= dict.fromkeys(value)
            records += 1
    return list(names) if records >= least else []


def _first_values(path: SourcePath) -> Iterator[object]:
    """Yield the JSON values with which a file begins; what is no JSON is left out."""
    with _opened(path) as file:
        start = file.read(_START_BYTES).removeprefix(UTF8_MARK).lstrip()
        file.seek(0)
        if path.suffix == ".json" and start.startswith(b"["):
            for value, source_read in read_elements(file, path):
                yield value
                if source_read > _START_BYTES:
                    return
            return
        for offset, line in split_lines(in_utf8(read_blocks(file, path), path), 0):
            if offset > _START_BYTES:
                return
            if line and not line.isspace():
                try:
                    yield parse_json(line)
                except NotJsonError:
                    continue


def _opened(path: SourcePath) -> BinaryIO:
    return cast(BinaryIO, path.open()) if isinstance(path, RemotePath) else path.open("rb")
