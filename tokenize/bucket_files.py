"""The files of one bucket, whatever its maker puts in: a full disk, their order, their sizes."""

import errno
import os
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

_BLOCK_TOKENS = 1 << 17  # a block stays in the cache of a core, and its memory is used again
_NO_PERMISSION = (errno.EROFS, errno.EACCES, errno.EPERM)


class RefusedWriteError(UserError):
    """There is no room for a bucket, or no permission; no other bucket need be tried."""


@contextmanager
def naming_refused_writes(target: Path) -> Iterator[None]:
    """Turn the error of a full disk, or of a folder that cannot be written to, into a message.

    Raises:
        RefusedWriteError: it names `target`, the file that was being written.
    """
    folder = target if target.is_dir() else target.parent
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise RefusedWriteError(
                f"{target}: the disk is full ({error.strerror}). The bucket is not used, but "
                "finished buckets stay. Free some space and run the same command again"
            ) from None
        if error.errno in _NO_PERMISSION and _lies_in(error.filename, folder):
            raise RefusedWriteError(
                f"{target}: cannot be written ({error.strerror}). Finished buckets stay. "
                "Allow writing to the folder and run the same command again"
            ) from None
        raise


def _lies_in(path: object, folder: Path) -> bool:
    if not isinstance(path, str | os.PathLike):
        return False
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


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
    """Yield the spooled sequences in `order`, in blocks of about 131,072 tokens.

    Args:
        spool: all sequences one after another, a value of `dtype` a token.
        dtype: of the values.
        lengths: tokens of each spooled sequence.
        order: numbers of sequences.
    """
    if not len(order):
        return  # an empty file cannot be mapped
    # Views that bytes are joined of: to slice and concatenate arrays takes four times as long.
    tokens = np.memmap(spool, dtype=dtype, mode="r").data
    ends = np.cumsum(lengths)
    starts = ends - lengths
    block_of = np.cumsum(lengths[order]) // _BLOCK_TOKENS
    for sequences in np.split(order, np.flatnonzero(np.diff(block_of)) + 1):
        bounds = zip(starts[sequences].tolist(), ends[sequences].tolist(), strict=True)
        yield np.frombuffer(b"".join([tokens[start:end] for start, end in bounds]), dtype)
