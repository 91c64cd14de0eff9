"""Parquet files for Hugging Face's ``datasets``, and the README.md that names them.

    load_dataset("OUTPUT", "SUBSET", split="train")

A record is a document, EOS included, in ``input_ids``; or a packed row, with ``loss_mask`` (1 where
a token is supervised) and ``lengths`` (the tokens of each of its conversations).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobilellama.files.atomic import whole_file
from mobilellama.shards.export.parts import SPLITS, ExportPart, Portion
from mobilellama.shards.format import little_endian

if TYPE_CHECKING:  # takes a quarter of a second
    import pyarrow as pa

_README = "README.md"
_GROUP_TOKENS = 1 << 23  # of a row group, whose columns a reader holds in memory
_PACKED_SHARE = 0.6  # of the ids' size: what zstd leaves of text


@dataclass(frozen=True, kw_only=True)
class ParquetFormat:
    """Writes ``.parquet`` files."""

    dtype: str
    is_packed: bool
    fingerprint: str
    """Of the dataset."""
    endings = ("parquet",)

    @property
    def bytes_a_token(self) -> float:
        """About how much disk a token takes."""
        return little_endian(self.dtype).itemsize * _PACKED_SHARE

    def write_part(self, stem: Path, part: ExportPart, portions: Iterable[Portion]) -> None:
        """Write the ``.parquet`` file of a part."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        fields = {"input_ids": pa.list_(pa.uint16() if self.dtype == "uint16" else pa.int32())}
        if self.is_packed:
            fields |= {"loss_mask": pa.list_(pa.uint8()), "lengths": pa.list_(pa.int32())}
        schema = pa.schema(fields)
        with (
            # An open file, because pyarrow takes only paths in UTF-8.
            whole_file(stem.with_name(f"{stem.name}.parquet")) as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            for portion in portions:
                starts = _record_starts(portion)
                for first, stop in _groups(starts):
                    columns = _columns(portion, starts[first : stop + 1], first)
                    writer.write_table(pa.Table.from_arrays(columns, schema=schema))

    def write_around(self, folder: Path, parts: Sequence[ExportPart]) -> list[str]:
        """Write README.md, whose head tells ``load_dataset`` the files of subsets and splits."""
        lines = ["---", "configs:"]
        for subset in dict.fromkeys(part.subset for part in parts):
            lines += [f"- config_name: {json.dumps(subset)}", "  data_files:"]
            for split in SPLITS:
                if any((part.subset, part.split) == (subset, split) for part in parts):
                    path = json.dumps(f"{subset}/{split}-*.parquet")
                    lines += [f"  - split: {split}", f"    path: {path}"]
        lines += [
            "---",
            "",
            "# Token ids",
            "",
            "Made by `mobilellama shards export` of the dataset with the fingerprint",
            f"`{self.fingerprint}`. `tokenizer.model`, or the folder `tokenizer`, is the tokenizer",
            "of the ids.",
            "",
        ]
        with whole_file(folder / _README) as file:
            file.write("\n".join(lines).encode())
        return [_README]

    def how_to_read(self, folder: Path, part: ExportPart) -> str:
        """Return the line that tells how to use the files."""
        call = f'load_dataset("{folder}", "{part.subset}", split="{part.split}")'
        return f"read a subset: datasets.{call}"


def _record_starts(portion: Portion) -> NDArray[np.int64]:
    """Return the (records + 1,) first tokens of the documents or rows, then the tokens' number."""
    ends = np.concatenate([[0], np.cumsum(portion.lengths, dtype=np.int64)])
    return ends if portion.rows is None else ends[portion.rows]


def _groups(starts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) of records that make a row group of about ``_GROUP_TOKENS``."""
    first, count = 0, len(starts) - 1
    while first < count:
        stop = int(np.searchsorted(starts, starts[first] + _GROUP_TOKENS, side="right")) - 1
        stop = min(max(stop, first + 1), count)
        yield first, stop
        first = stop


def _columns(portion: Portion, starts: NDArray[np.int64], first: int) -> "list[pa.Array]":
    """Return the columns of the records from number `first` on that have these starts."""
    tokens = slice(int(starts[0]), int(starts[-1]))
    columns = [_lists(portion.ids[tokens], starts)]
    if portion.mask is not None and portion.rows is not None:
        rows = portion.rows[first : first + len(starts)]
        columns.append(_lists(portion.mask[tokens], starts))
        columns.append(_lists(portion.lengths[int(rows[0]) : int(rows[-1])], rows))
    return columns


def _lists(values: NDArray[np.integer], starts: NDArray[np.int64]) -> "pa.Array":
    """Return a column of lists, of which each begins at its start among the values."""
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(starts - starts[0], pa.int32()), pa.array(values))
