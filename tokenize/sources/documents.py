r"""Read a slice: bytes -> lines -> records -> batches of texts, counting what is bad.

1. ``.jsonl``: blocks of the byte range; it owns the lines whose first byte lies in it.
   ``.jsonl.zst``: all of the file, unpacked. See lines.py, slice_lines.py; tables.py for others.
2. orjson parses; what it refuses (NaN, lone surrogates) goes to the standard library.
3. A record that gives no text is counted, its place kept, and left out.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from mobilellama.files.json_lines import LONGEST_LINE_BYTES
from mobilellama.shards.dataset import Slice
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.lines import open_planned
from mobilellama.tokenize.sources.slice_lines import file_lines
from mobilellama.tokenize.sources.table_files import read_file
from mobilellama.tokenize.sources.tables import read_rows
from mobilellama.tokenize.sources.text_files import read_text_files
from mobilellama.tokenize.sources.texts import (
    BadRecordError,
    LongRecordError,
    parse_text,
    require_text,
)

_BATCH_BYTES = 1 << 20  # of text: small enough for steady progress, large enough to be cheap
_SURROGATE = re.compile("[\ud800-\udfff]")

T = TypeVar("T")


def read_documents(slice_: Slice, sources: SourcesConfig, counts: Counts) -> Iterator[list[str]]:
    """Yield the slice's texts in their order, in batches of about 1 MiB.

    `counts` is current whenever a batch is yielded, and at the end says what was read.

    Raises:
        DataError: the source is missing, corrupt, truncated, or no longer what was planned.
    """
    column = sources.text_column
    if slice_.unit == "rows":
        rows = read_rows(slice_, sources, counts)
        yield from _batches(rows, partial(require_text, column=column), counts)
        return
    if slice_.unit == "files":
        texts = read_text_files(slice_, sources, counts)
        yield from _batches(texts, str, counts)
        return
    path = sources.path_of(slice_)
    with open_planned(path, slice_.size) as file:
        if sources.dataset is not None:
            values = read_file(file, path, slice_, column, counts)
            yield from _batches(values, partial(require_text, column=column), counts)
        else:
            lines = file_lines(file, path, slice_, counts)
            yield from _batches(lines, partial(parse_text, column=column), counts)


def _batches(
    items: Iterator[tuple[int, T | BadRecordError]], text_of: Callable[[T], str], counts: Counts
) -> Iterator[list[str]]:
    batch: list[str] = []
    batch_bytes = 0
    for place, item in items:
        counts.records += 1
        try:
            if isinstance(item, BadRecordError):
                raise item
            text = text_of(item)
        except BadRecordError as reason:
            counts.add_bad(place, str(reason), is_long=isinstance(reason, LongRecordError))
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
        if size > LONGEST_LINE_BYTES:  # of a table, or of a list: a line would be longer still
            reason = f"too long (its text has more than {LONGEST_LINE_BYTES:,} bytes)"
            counts.add_bad(place, reason, is_long=True)
            continue
        counts.bytes_in += size
        batch.append(text)
        batch_bytes += size
        if batch_bytes >= _BATCH_BYTES:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch
