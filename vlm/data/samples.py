"""Tokenised records, mapped into memory and read by number.

    RUN/samples/train.arrow    a row a sample: id, place, images, input_ids, supervised
    RUN/samples/train.json     written last: see sample_file.py, which writes both

Memory does not grow with the records: Arrow's file is mapped, and of each sample only its lengths
are held.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobilellama.config import DataError, one_line
from mobilellama.files.atomic import sha256_of_file
from mobilellama.files.sealed import read_sealed_json

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One record, tokenised."""

    id: str
    place: str
    images: tuple[str, ...]
    ids: NDArray[np.int32]
    """(T,); one ``IMAGE`` for each image."""
    supervised: NDArray[np.bool_]
    """(T,)."""


class Samples:
    """The samples of a file, by number.

    Args:
        path: of the .arrow file.
        image_tokens: places that an image takes.
        leave_out: rows of the file that are no samples; those after them move up.

    Raises:
        DataError: the file is missing, or not as it was written.
    """

    def __init__(self, path: Path, *, image_tokens: int, leave_out: Sequence[int] = ()) -> None:
        import pyarrow as pa

        self._path = path
        try:
            self._reader: pa.RecordBatchFileReader = pa.ipc.open_file(pa.memory_map(str(path)))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: cannot be read ({error}); remove it and run again") from None
        self._bytes = path.stat().st_size
        counts = [self._batch(i).num_rows for i in range(self._reader.num_record_batches)]
        self._ends = np.cumsum(counts)
        ids, supervised, images = (
            np.concatenate([measure(self._batch(i)) for i in range(len(counts))])
            for measure in (_token_counts, _supervised_counts, _image_counts)
        )
        kept = np.delete(np.arange(len(ids)), np.array(leave_out, dtype=np.int64))
        self._rows: NDArray[np.int64] = kept
        self.lengths: NDArray[np.int64] = (ids + images * (image_tokens - 1))[kept]
        """Tokens of each sample, its images' included."""
        self.supervised: NDArray[np.int64] = supervised[kept]
        """Supervised tokens of each."""
        self.has_images: NDArray[np.bool_] = images[kept] > 0
        """Whether each has an image."""

    def _batch(self, number: int) -> "pa.RecordBatch":
        return self._reader.get_batch(number)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.lengths)

    def __getitem__(self, number: int) -> Sample:
        """Return a sample.

        Raises:
            DataError: the file was cut since it was opened; to read on would end the process.
        """
        if (size := self._path.stat().st_size) < self._bytes:
            raise DataError(
                f"{self._path}: was cut from {self._bytes:,} to {size:,} bytes while it was in "
                "use; remove it and run again"
            )
        place = int(self._rows[number])
        batch_number = int(np.searchsorted(self._ends, place, side="right"))
        batch = self._batch(batch_number)
        row = place - (int(self._ends[batch_number - 1]) if batch_number else 0)
        return Sample(
            id=batch["id"][row].as_py(),
            place=batch["place"][row].as_py(),
            images=tuple(os.fsdecode(name) for name in batch["images"][row].as_py()),
            ids=batch["input_ids"][row].values.to_numpy(),
            supervised=batch["supervised"][row].values.to_numpy(zero_copy_only=False),
        )

    def image_names(self) -> Iterator[list[list[bytes]]]:
        """Yield the names of the images of every row of the file, some hundred rows at a time."""
        for number in range(len(self._ends)):
            yield self._batch(number)["images"].to_pylist()


def _token_counts(batch: "pa.RecordBatch") -> NDArray[np.int64]:
    return _list_lengths(batch["input_ids"])


def _image_counts(batch: "pa.RecordBatch") -> NDArray[np.int64]:
    return _list_lengths(batch["images"])


def _supervised_counts(batch: "pa.RecordBatch") -> NDArray[np.int64]:
    column = batch["supervised"]
    values = column.values.to_numpy(zero_copy_only=False).astype(np.int64)
    sums = np.concatenate([[0], values.cumsum()])
    offsets = column.offsets.to_numpy()
    return sums[offsets[1:]] - sums[offsets[:-1]]


def _list_lengths(column: "pa.ListArray") -> NDArray[np.int64]:
    return np.diff(column.offsets.to_numpy()).astype(np.int64)


def written_sha256(path: Path) -> str:
    """Return a file's sha256 as its receipt has it.

    Raises:
        DataError: there is no whole receipt.
    """
    receipt = path.with_suffix(".json")
    try:
        return read_sealed_json(receipt, owner=receipt.parent)["sha256"]
    except (OSError, ValueError, KeyError) as error:
        what = f"is missing or damaged ({one_line(error)})"
        raise DataError(f"{receipt}: {what}; remove it and run again") from None


def verify_samples(path: Path) -> None:
    """Check a file's bytes against its receipt.

    Raises:
        DataError: they are not those that were written.
    """
    if sha256_of_file(path) != written_sha256(path):
        raise DataError(
            f"{path}: its sha256 is not the one in its receipt; remove it and run again"
        )
