"""The files of one bucket, whatever its maker puts in: a full disk, their order, their sizes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from mobilellama.config import UserError
from mobilellama.files.atomic import DISK_FULL
from mobilellama.shards.dataset import Identity, Slice, read_receipt
from mobilellama.shards.format import index_bytes, little_endian

_BLOCK_TOKENS = 1 << 20


class DiskFullError(UserError):
    """There is no room for a bucket; no other bucket need be tried."""


@contextmanager
def naming_a_full_disk(target: Path) -> Iterator[None]:
    """Turn a full disk into a DiskFullError that names what was being written."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise DiskFullError(
            f"{target}: the disk is full ({error.strerror}). The bucket is not used, but "
            "finished buckets stay. Free some space and run the same command again"
        ) from None


def is_finished(folder: Path, slice_: Slice, identity: Identity) -> bool:
    """Return whether the bucket has its receipt, and all its files in their full size.

    Raises:
        DataError: the receipt belongs to another plan.
    """
    receipt = read_receipt(folder, slice_, identity)
    if receipt is None:
        return False
    sizes = {
        "bin": receipt.tokens * little_endian(identity.dtype).itemsize,
        "mask": receipt.tokens,
        "idx": index_bytes(receipt.documents, receipt.counts.get("rows")),
    }
    paths = {folder / f"{slice_.name}.{ending}": sizes[ending] for ending in receipt.sha256}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def gather(
    spool: BinaryIO, dtype: np.dtype, lengths: NDArray[np.int64], order: NDArray[np.int64]
) -> Iterator[NDArray[np.generic]]:
    """Yield the spooled sequences in `order`, in blocks of about a million tokens.

    Args:
        spool: all sequences one after another, a value of `dtype` a token.
        dtype: of the values.
        lengths: tokens of each spooled sequence.
        order: numbers of sequences.
    """
    if not len(order):
        return  # an empty file cannot be mapped
    # A plain view: slicing a memmap object costs ten times as much.
    tokens = np.memmap(spool, dtype=dtype, mode="r").view(np.ndarray)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    block_of = np.cumsum(lengths[order]) // _BLOCK_TOKENS
    for sequences in np.split(order, np.flatnonzero(np.diff(block_of)) + 1):
        yield np.concatenate([tokens[starts[i] : ends[i]] for i in sequences])
