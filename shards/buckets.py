"""The bucket files of a dataset as memory maps, and what the manifest says of them.

A file is mapped when it is first read. Its size is compared with the manifest's then, and each
time after that, since reading a map of a file that was cut ends the process.
"""

import mmap
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilellama.config import DataError
from mobilellama.shards.dataset import MANIFEST, Identity, bucket_name
from mobilellama.shards.format import BucketIndex, little_endian, read_index, require_uncut
from mobilellama.shards.manifest import ManifestRow

# A map holds a file descriptor, of which a process often may have 1,024; a corpus of 1.3T
# tokens has some 2,600 buckets. Opening one again costs some 20 microseconds.
_OPEN_BUCKETS = 512
_OPEN_INDEXES = 96  # and as many masks


class _MappedFile(NamedTuple):
    """A file that is mapped while it is in use."""

    values: NDArray[Any]
    mapped: mmap.mmap | None
    """None: the file is empty, which cannot be mapped."""
    path: Path

    def uncut(self) -> NDArray[Any]:
        """Return the values, if the file is still as long as when it was mapped."""
        if self.mapped is not None:
            require_uncut(self.mapped, self.path)
        return self.values


class Buckets:
    """The buckets of a dataset folder, whose manifest the caller has checked."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        self.folder, self.identity = folder, identity
        self._map = lru_cache(maxsize=_OPEN_BUCKETS)(self._open_bucket)
        self._index = lru_cache(maxsize=_OPEN_INDEXES)(self._open_index)
        self._mask = lru_cache(maxsize=_OPEN_INDEXES)(self._open_mask)

    @cached_property
    def manifest(self) -> list[ManifestRow]:
        """The manifest: one row a bucket, ordered by subset, then bucket."""
        import pyarrow.parquet as pq

        # Opened here, because pyarrow takes only paths in UTF-8. Without threads: a pool costs more
        # than this table, and does not survive a fork.
        with (self.folder / MANIFEST).open("rb") as file:
            return pq.ParquetFile(file).read(use_threads=False).to_pylist()

    @cached_property
    def _manifest_by_name(self) -> dict[str, ManifestRow]:
        return {bucket_name(row["subset"], row["bucket"]): row for row in self.manifest}

    def row(self, name: str) -> ManifestRow:
        """Return the manifest's row of bucket ``SUBSET/NNNNN``."""
        return self._manifest_by_name[name]

    def bucket_tokens(self, name: str, tokens: int) -> NDArray[np.integer]:
        """Return the ids of bucket ``SUBSET/NNNNN``, mapped.

        Args:
            name: the bucket.
            tokens: how many it must hold.

        Raises:
            DataError: the file is missing or has another size.
        """
        return self._map(name, tokens).uncut()

    def bucket_mask(self, name: str, tokens: int) -> NDArray[np.uint8]:
        """Return a byte for each token of bucket ``SUBSET/NNNNN``, mapped: 1 is supervised.

        Raises:
            DataError: the file is missing or has another size.
        """
        return self._mask(name, tokens).uncut()

    def bucket_index(self, name: str) -> BucketIndex:
        """Return where the documents of bucket ``SUBSET/NNNNN`` are.

        Raises:
            DataError: the file is missing, truncated or no index.
        """
        index = self._index(name)
        require_uncut(index.mapped, index.path)
        return index

    def advise(self, name: str, tokens: int, start: int, length: int) -> None:
        """Ask the kernel to read ahead `length` tokens from token `start` of a bucket."""
        ids, mapped, _ = self._map(name, tokens)
        if mapped is None:
            return
        first = start * ids.itemsize
        aligned = first - first % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, aligned, first - aligned + length * ids.itemsize)

    def _open_bucket(self, name: str, tokens: int) -> _MappedFile:
        return self._open(f"{name}.bin", little_endian(self.identity.dtype), tokens)

    def _open_mask(self, name: str, tokens: int) -> _MappedFile:
        return self._open(f"{name}.mask", np.dtype(np.uint8), tokens)

    def _open(self, name: str, dtype: np.dtype, count: int) -> _MappedFile:
        path, expected = self.folder / name, count * dtype.itemsize
        size = path.stat().st_size if path.is_file() else -1
        if size != expected:
            raise DataError(
                f"{path}: {'missing' if size < 0 else f'{size} bytes'}, but the manifest says "
                f"{expected} bytes. Run 'mobilellama shards verify {self.folder}', which says what "
                "to rebuild"
            )
        if count == 0:
            return _MappedFile(np.empty(0, dtype), None, path)
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # A plain array over the map: slicing np.memmap, a subclass, costs several times more.
        return _MappedFile(np.frombuffer(mapped, dtype), mapped, path)

    def _open_index(self, name: str) -> BucketIndex:
        return read_index(self.folder / f"{name}.idx")
