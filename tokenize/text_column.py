"""Whether a corpus has the text column: a look at its first files, before work is shared out.

A wrong name is one mistake of the user's, and is told once, while planning; in the workers every
slice would fail of it. Only the beginning of a few files is read. What cannot be read there says
nothing here: the worker that reads all of the file tells what is wrong with it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mobilellama.config import ConfigError, UserError
from mobilellama.files.json_lines import UTF8_MARK, NotJsonError, parse_json
from mobilellama.shards.dataset import Slice
from mobilellama.tokenize.counts import LEAST_BAD_RECORDS
from mobilellama.tokenize.json_list import read_elements
from mobilellama.tokenize.lines import in_utf8, read_blocks, split_lines
from mobilellama.tokenize.sources import SourcesConfig

_START_BYTES = 1 << 20  # of a file: unless a text is longer, several records
_NAMES_SHOWN = 20


def require_text_column(sources: SourcesConfig, slices: Sequence[Slice]) -> None:
    """Raise ConfigError where the first file of a kind has records, and none has the text column.

    Of a tree of subsets that is the first file of each subset. There records without a text are
    counted as bad, and a few may be: so few say nothing.
    """
    seen: set[tuple[str, str]] = set()
    for piece in slices:
        path = sources.path_of(piece)
        kind = (piece.subset, path.suffix)
        if piece.unit != "bytes" or not piece.size or kind in seen:
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


def _other_names(path: Path, column: str, least: int) -> list[str]:
    """Return the columns of a file that has records, but not this column; else an empty list."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            found = pq.read_schema(path).names
        except pa.ArrowException:
            return []
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


def _first_values(path: Path) -> Iterator[Any]:
    """Yield the JSON values with which a file begins; what is no JSON is left out."""
    with path.open("rb") as file:
        start = file.read(_START_BYTES).removeprefix(UTF8_MARK).lstrip()
        file.seek(0)
        if path.suffix == ".json" and start.startswith(b"["):
            for value, source_read in read_elements(file):
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
