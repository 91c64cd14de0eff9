r"""The bucket format: Megatron-LM's indexed dataset, so that its descendants read our files.

``NNNNN.bin``: the ids of all documents, little endian, each document followed by EOS.
``NNNNN.idx``, little endian:

    9 bytes   magic "MMIDIDX\0\0"
    uint64    version 1
    uint8     dtype code: 8 = uint16, 4 = int32
    uint64    number of sequences (one a document)
    uint64    number of document indices (documents + 1)
    int32[]   length of each sequence, in tokens, its EOS included
    int64[]   byte offset of each sequence in the .bin file
    int64[]   document indices: 0, 1, 2, ..., documents
"""

import bisect
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


def write_index(file: BinaryIO, lengths: NDArray[np.integer], dtype: str) -> None:
    """Write the .idx of documents stored one after another.

    Args:
        file: opened for writing.
        lengths: tokens of each document, EOS included, in the order of the .bin file.
        dtype: "uint16" or "int32".
    """
    count = len(lengths)
    ends = np.cumsum(lengths, dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[:count]
    file.write(_HEADER.pack(_MAGIC, _VERSION, _CODES[dtype], count, count + 1))
    file.write(np.asarray(lengths, dtype="<i4").tobytes())
    file.write((starts * np.dtype(dtype).itemsize).astype("<i8").tobytes())
    file.write(np.arange(count + 1, dtype="<i8").tobytes())


def index_bytes(documents: int) -> int:
    """Return the size of the .idx of a bucket."""
    return _HEADER.size + 12 * documents + 8 * (documents + 1)


@dataclass(frozen=True, kw_only=True)
class BucketIndex:
    """The documents of a bucket: their lengths and starts, mapped, not read."""

    dtype: str
    lengths: NDArray[np.int32]
    """Tokens of each document, EOS included."""
    byte_offsets: NDArray[np.int64]
    """Where each document starts in the .bin file."""

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each document starts, in tokens."""
        return self.byte_offsets // np.dtype(self.dtype).itemsize

    def document_at(self, token: int) -> int:
        """Return the number of the document that holds the bucket's token `token`."""
        offset = token * np.dtype(self.dtype).itemsize
        # Not np.searchsorted: it would first copy the array, which is not aligned in the file.
        return bisect.bisect_right(self.byte_offsets, offset) - 1

    def span(self, document: int) -> tuple[int, int]:
        """Return (first token, token count) of a document."""
        itemsize = np.dtype(self.dtype).itemsize
        return int(self.byte_offsets[document]) // itemsize, int(self.lengths[document])


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
    if len(header) < _HEADER.size or header[:9] != _MAGIC:
        raise DataError(f"{path}: not an index file (its first bytes are {header[:9]!r})")
    _, version, code, count, indices = _HEADER.unpack(header)
    expected = _HEADER.size + 12 * count + 8 * indices
    if version != _VERSION or code not in _DTYPES or size != expected:
        raise DataError(
            f"{path}: version {version}, dtype code {code}, {size} bytes; "
            f"expected version {_VERSION}, a code in {sorted(_DTYPES)}, {expected} bytes"
        )
    data = np.memmap(path, dtype=np.uint8, mode="r")
    lengths_end = _HEADER.size + 4 * count
    return BucketIndex(
        dtype=_DTYPES[code],
        lengths=data[_HEADER.size : lengths_end].view("<i4"),
        byte_offsets=data[lengths_end : lengths_end + 8 * count].view("<i8"),
    )
