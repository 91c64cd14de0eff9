r"""The bucket format: Megatron-LM's indexed dataset, so that its descendants read our files.

``NNNNN.bin``: the ids of all sequences, little endian, one after another. For pretraining a
sequence is a document, followed by EOS; for finetuning a sequence is a conversation and a
document is a packed row of them, with ``NNNNN.mask`` beside it: a byte a token, 1 where the
token is supervised. ``NNNNN.idx``, little endian:

    9 bytes   magic "MMIDIDX\0\0"
    uint64    version 1
    uint8     dtype code: 8 = uint16, 4 = int32
    uint64    number of sequences
    uint64    number of document indices (documents + 1)
    int32[]   length of each sequence, in tokens
    int64[]   byte offset of each sequence in the .bin file
    int64[]   document indices: the first sequence of each document, then their number
"""

import bisect
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from mobilellama.config import DataError

_HEADER = struct.Struct("<9sQBQQ")
_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_CODES = {"uint16": 8, "int32": 4}
_DTYPES = {code: name for name, code in _CODES.items()}

LARGEST_UINT16_VOCABULARY = 65_500
"""Vocabularies above this take int32, as in Megatron-LM."""


def dtype_for_vocabulary(vocab_size: int) -> str:
    """Return the name of the dtype that ids of this vocabulary are stored in."""
    return "uint16" if vocab_size <= LARGEST_UINT16_VOCABULARY else "int32"


def little_endian(dtype: str) -> np.dtype:
    """Return the numpy dtype that the files hold."""
    return np.dtype(dtype).newbyteorder("<")


def write_index(
    file: BinaryIO,
    lengths: NDArray[np.integer],
    dtype: str,
    documents: NDArray[np.integer] | None = None,
) -> None:
    """Write the .idx of sequences stored one after another.

    Args:
        file: opened for writing.
        lengths: tokens of each sequence, EOS included, in the order of the .bin file.
        dtype: "uint16" or "int32".
        documents: (documents + 1,) the first sequence of each document, then the number of
            sequences; None: every sequence is a document.
    """
    count = len(lengths)
    if documents is None:
        documents = np.arange(count + 1)
    assert documents[0] == 0 and documents[-1] == count
    ends = np.cumsum(lengths, dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[:count]
    file.write(_HEADER.pack(_MAGIC, _VERSION, _CODES[dtype], count, len(documents)))
    file.write(np.asarray(lengths, dtype="<i4").tobytes())
    file.write((starts * np.dtype(dtype).itemsize).astype("<i8").tobytes())
    file.write(np.asarray(documents, dtype="<i8").tobytes())


def index_bytes(sequences: int, documents: int | None = None) -> int:
    """Return the size of the .idx of a bucket; documents is None where each sequence is one."""
    documents = sequences if documents is None else documents
    return _HEADER.size + 12 * sequences + 8 * (documents + 1)


@dataclass(frozen=True, kw_only=True)
class BucketIndex:
    """The sequences of a bucket: their lengths and starts, mapped, not read."""

    dtype: str
    lengths: NDArray[np.int32]
    """Tokens of each sequence, EOS included."""
    byte_offsets: NDArray[np.int64]
    """Where each sequence starts in the .bin file."""
    documents: NDArray[np.int64]
    """(documents + 1,) the first sequence of each document, then the number of sequences."""
    mapped: mmap.mmap
    """What the arrays are views of."""
    path: Path

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each sequence starts, in tokens."""
        return self.byte_offsets // np.dtype(self.dtype).itemsize

    def sequence_at(self, token: int) -> int:
        """Return the number of the sequence that holds the bucket's token `token`."""
        offset = token * np.dtype(self.dtype).itemsize
        # Not np.searchsorted: it would first copy the array, which is not aligned in the file.
        return bisect.bisect_right(self.byte_offsets, offset) - 1

    def span(self, sequence: int) -> tuple[int, int]:
        """Return (first token, token count) of a sequence."""
        itemsize = np.dtype(self.dtype).itemsize
        return int(self.byte_offsets[sequence]) // itemsize, int(self.lengths[sequence])


def read_index(path: Path) -> BucketIndex:
    """Map an .idx file.

    Raises:
        DataError: the file is missing, is no index of this format, or is truncated.
    """
    if not path.is_file():
        raise DataError(f"{path}: missing")
    size = path.stat().st_size
    with open(path, "rb") as file:
        header = file.read(_HEADER.size)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if header else None
    if mapped is None or len(header) < _HEADER.size or header[:9] != _MAGIC:
        raise DataError(f"{path}: not an index file (its first bytes are {header[:9]!r})")
    _, version, code, count, indices = _HEADER.unpack(header)
    expected = _HEADER.size + 12 * count + 8 * indices
    if version != _VERSION or code not in _DTYPES or size != expected:
        raise DataError(
            f"{path}: version {version}, dtype code {code}, {size} bytes; "
            f"expected version {_VERSION}, a code in {sorted(_DTYPES)}, {expected} bytes"
        )
    data = np.frombuffer(mapped, np.uint8)
    lengths_end = _HEADER.size + 4 * count
    offsets_end = lengths_end + 8 * count
    return BucketIndex(
        dtype=_DTYPES[code],
        lengths=data[_HEADER.size : lengths_end].view("<i4"),
        byte_offsets=data[lengths_end:offsets_end].view("<i8"),
        documents=data[offsets_end:].view("<i8"),
        mapped=mapped,
        path=path,
    )


def require_uncut(mapped: mmap.mmap, path: Path) -> None:
    """Raise DataError if a file is shorter than when it was mapped.

    To read on would end the process by SIGBUS, without a word, or give zeros for its last page.
    """
    if (size := mapped.size()) < len(mapped):
        raise DataError(
            f"{path}: was cut from {len(mapped):,} to {size:,} bytes while it was in use. Run "
            "'mobilellama shards verify', which says how to rebuild it, and start again"
        )
