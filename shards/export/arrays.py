"""NumPy arrays, which ``numpy.load(FILE, mmap_mode="r")`` maps.

SPLIT-NNNNN.npy            (tokens,) ids, EOS at the end of each document
SPLIT-NNNNN.ends.npy       (documents,) int64: where each document ends, in tokens
(of packed rows: where each conversation ends)
SPLIT-NNNNN.mask.npy       of packed rows: (tokens,) uint8: 1 where a token is supervised
SPLIT-NNNNN.row_ends.npy   of packed rows: (rows,) int64: where each row ends, in tokens
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mobilellama.files.atomic import whole_file
from mobilellama.shards.export.parts import ExportPart, Portion
from mobilellama.shards.format import little_endian


@dataclass(frozen=True, kw_only=True)
class ArrayFormat:
    """Writes ``.npy`` files."""

    dtype: str
    is_packed: bool

    @property
    def endings(self) -> tuple[str, ...]:
        """Of a part's files."""
        more = ("mask.npy", "row_ends.npy") if self.is_packed else ()
        return ("npy", *more, "ends.npy")

    @property
    def bytes_a_token(self) -> float:
        """About how much disk a token takes."""
        return little_endian(self.dtype).itemsize + self.is_packed

    def write_part(self, stem: Path, part: ExportPart, portions: Iterable[Portion]) -> None:
        """Write the arrays of a part."""
        lengths, row_ends, done = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
        with ExitStack() as stack:
            ids_file = stack.enter_context(_array(stem, "npy"))
            _write_header(ids_file, little_endian(self.dtype), part.tokens)
            mask_file = stack.enter_context(_array(stem, "mask.npy")) if self.is_packed else None
            if mask_file:
                _write_header(mask_file, np.dtype(np.uint8), part.tokens)
            for portion in portions:
                ids_file.write(portion.ids.data)
                lengths.append(portion.lengths.astype(np.int64))
                if mask_file and portion.mask is not None and portion.rows is not None:
                    mask_file.write(portion.mask.data)
                    ends = np.concatenate([[0], np.cumsum(portion.lengths, dtype=np.int64)])
                    row_ends.append(done + ends[portion.rows[1:]])
                done += len(portion.ids)
        if self.is_packed:
            _write(stem, "row_ends.npy", np.concatenate(row_ends))
        _write(stem, "ends.npy", np.cumsum(np.concatenate(lengths)))

    def write_around(self, folder: Path, parts: Sequence[ExportPart]) -> list[str]:
        """Write nothing: the arrays say it all."""
        return []

    def how_to_read(self, folder: Path, part: ExportPart) -> str:
        """Return the line that tells how to use the files."""
        return f'read a file: numpy.load("{folder / part.name}.npy", mmap_mode="r")'


def _array(stem: Path, ending: str) -> AbstractContextManager[BinaryIO]:
    return whole_file(stem.with_name(f"{stem.name}.{ending}"))


def _write_header(file: BinaryIO, dtype: np.dtype, count: int) -> None:
    # What numpy.save writes, which would need the whole array.
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    npy.write_array_header_1_0(file, header)


def _write(stem: Path, ending: str, values: NDArray[np.int64]) -> None:
    with _array(stem, ending) as file:
        np.save(file, values.astype("<i8"), allow_pickle=False)
