"""A folder of .txt and .md files: each is a document.

The files in byte order of their paths are cut into groups of up to ``slice_bytes``, so that many
small files make few buckets. A slice has the numbers of its files, and the path of the first as
its source. A file that is not UTF-8 is a bad record, whose place is its number.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from mobilellama.config import DataError
from mobilellama.files.json_lines import LONGEST_LINE_BYTES, UTF8_MARK
from mobilellama.shards.dataset import Slice
from mobilellama.shards.source_file import FileState, SourceRange
from mobilellama.shards.sources.places import files_below, path_below
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.lines import file_state, open_planned
from mobilellama.tokenize.sources.texts import BadRecordError, LongRecordError

TEXT_ENDINGS = (".txt", ".md")
_MOST_FILES = 100_000  # of a slice


def is_text_file(path: str) -> bool:
    """Return whether a file's name is that of a text."""
    return path.endswith(TEXT_ENDINGS)


def text_slices(
    sources: SourcesConfig, sizes: Mapping[str, int], subset: str, slice_bytes: int
) -> tuple[Slice, ...]:
    """Return the slices of a folder of texts.

    Args:
        sources: the corpus.
        sizes: of the files, by path.
        subset: name of the subset that they become.
        slice_bytes: a slice ends before the file that would make it larger.
    """
    paths = _in_order(sizes)
    starts, held = [0], 0
    for number, path in enumerate(paths):
        is_full = held + sizes[path] > slice_bytes or number - starts[-1] >= _MOST_FILES
        if number > starts[-1] and is_full:
            starts.append(number)
            held = 0
        held += sizes[path]
    return tuple(
        Slice(
            subset=subset,
            bucket=bucket,
            source=sources.labelled(paths[start]),
            size=len(paths),
            start=start,
            end=end,
            unit="files",
        )
        for bucket, (start, end) in enumerate(zip(starts, [*starts[1:], len(paths)], strict=True))
    )


def read_text_files(
    slice_: Slice, sources: SourcesConfig, counts: Counts
) -> Iterator[tuple[int, str | BadRecordError]]:
    """Yield (number, text) of the files of a slice; at their end, `counts` says what was read.

    Raises:
        DataError: a file cannot be read, or files were added or removed since the plan was made.
    """
    folder, sizes = sources.dataset or "", _sizes(sources.dataset or "")
    paths = _in_order(sizes)
    _require_same(slice_, sources, paths)
    states, digest = [], hashlib.sha256()
    for number in range(slice_.start, slice_.end):
        path = path_below(folder, paths[number])
        with open_planned(path, sizes[paths[number]]) as file:
            states.append(file_state(file))
            data = file.read()
        digest.update(len(data).to_bytes(8, "little") + data)
        counts.source_read = number + 1 - slice_.start
        yield number, _text_of(data, paths[number])
    counts.source_file = SourceRange(
        state=FileState.together(states),
        start=slice_.start,
        end=slice_.end,
        sha256=digest.hexdigest(),
    ).to_json()


def text_files_state(slice_: Slice, sources: SourcesConfig) -> FileState:
    """Return the state of the files of a slice together.

    Raises:
        DataError: a file cannot be looked at.
    """
    folder = sources.dataset or ""
    paths = _in_order(_sizes(folder))
    _require_same(slice_, sources, paths)
    states = []
    for path in paths[slice_.start : slice_.end]:
        with open_planned(path_below(folder, path), _sizes(folder)[path]) as file:
            states.append(file_state(file))
    return FileState.together(states)


def read_text_files_again(slice_: Slice, sources: SourcesConfig) -> SourceRange | None:
    """Return what a slice of text files holds now, read anew."""
    _sizes.cache_clear()
    counts = Counts()
    for _ in read_text_files(slice_, sources, counts):
        pass
    return SourceRange.from_json(counts.source_file)


def _text_of(data: bytes, path: str) -> str | BadRecordError:
    if len(data) > LONGEST_LINE_BYTES:
        return LongRecordError(f"{path}: too long (it has more than {LONGEST_LINE_BYTES:,} bytes)")
    try:
        return data.removeprefix(UTF8_MARK).decode()
    except UnicodeDecodeError as error:
        return BadRecordError(f"{path}: not UTF-8 ({error.reason} at byte {error.start:,})")


@lru_cache(maxsize=1)
def _sizes(folder: str) -> Mapping[str, int]:
    """Return the sizes of a folder's texts, listed once a process."""
    return {path: size for path, size in files_below(folder).items() if is_text_file(path)}


def _in_order(paths: Mapping[str, int]) -> Sequence[str]:
    return sorted(paths, key=str.encode)


def _require_same(slice_: Slice, sources: SourcesConfig, paths: Sequence[str]) -> None:
    first = sources.unlabelled(slice_.source)
    if len(paths) != slice_.size or paths[slice_.start] != first:
        raise DataError(
            f"{sources.dataset}: {len(paths):,} text files, but it had {slice_.size:,} when the "
            f"plan was made, or others before {first}. Restore them, or tokenise into another "
            "output folder"
        )
