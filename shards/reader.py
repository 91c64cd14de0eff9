"""Reading a dataset: bucket files as memory maps, and the windows that samples are cut from.

``windows(seq_len)`` is the view that pretraining takes: a sample is ``seq_len + 1``
consecutive tokens and samples step by ``seq_len``, so that each token is predicted once. A
shorter tail of a bucket is left out and counted. The same files serve any ``seq_len``.

Opening reads one row a bucket; nothing grows with the number of tokens or samples.
"""

import bisect
import json
import mmap
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mobilellama.config import ConfigError, DataError
from mobilellama.files import read_json, sha256_of_file
from mobilellama.shards.dataset import (
    DATASET,
    FORMAT_VERSION,
    MANIFEST,
    PLAN,
    TOKENIZER,
    Identity,
    bucket_name,
    rebuild_manifest,
    totals_of_rows,
)
from mobilellama.shards.format import BucketIndex, little_endian, read_index
from mobilellama.tokenizer import Tokenizer

Split = Literal["train", "heldout"]

# A map holds a file descriptor, of which a process often may have 1,024; a corpus of 1.3T
# tokens has some 2,600 buckets. Opening one again costs some 20 microseconds.
_OPEN_BUCKETS = 512


class TokenDataset:
    """A finished dataset folder.

    Raises:
        ConfigError: the folder is missing, or is no finished dataset.
        DataError: the manifest is not the one that dataset.json was written with.
    """

    def __init__(self, folder: str | Path, *, field: str = "data.path") -> None:
        self.folder = Path(folder)
        if not (self.folder / DATASET).is_file():
            raise ConfigError(field, str(folder), *_why_no_dataset(self.folder))
        description, self.identity = _read_description(self.folder / DATASET)
        self.fingerprint: str = description["fingerprint"]
        self.described_totals: dict[str, dict[str, int]] = description["subsets"]
        """What dataset.json says of the subsets, for people; ``totals`` are the manifest's."""
        manifest = self.folder / MANIFEST
        if not manifest.is_file() or sha256_of_file(manifest) != description["manifest_sha256"]:
            raise DataError(
                f"{manifest}: {'not the one' if manifest.is_file() else 'missing; the one'} that "
                f"{DATASET} was written with. {rebuild_manifest(self.folder)}"
            )
        self._map = lru_cache(maxsize=_OPEN_BUCKETS)(self._open_bucket)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The manifest: one mapping a bucket, ordered by subset, then bucket."""
        import pyarrow.parquet as pq

        # Without threads: a pool costs more than this table, and does not survive a fork.
        return pq.ParquetFile(self.folder / MANIFEST).read(use_threads=False).to_pylist()

    @cached_property
    def totals(self) -> dict[str, dict[str, int]]:
        """Sums of the manifest's counts, by subset."""
        return totals_of_rows(self.rows)

    @cached_property
    def _rows_by_name(self) -> dict[str, dict[str, Any]]:
        return {bucket_name(row["subset"], row["bucket"]): row for row in self.rows}

    def row(self, name: str) -> dict[str, Any]:
        """Return the manifest's row of bucket ``SUBSET/NNNNN``."""
        return self._rows_by_name[name]

    @property
    def subsets(self) -> tuple[str, ...]:
        """Names of the subsets, sorted."""
        return tuple(sorted(self.totals))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the dataset was made with."""
        tokenizer = Tokenizer(self.folder / TOKENIZER)
        tokenizer.require_sha256(
            self.identity.tokenizer_sha256, field="tokenizer", owner=str(self.folder)
        )
        return tokenizer

    def bucket_tokens(self, name: str, tokens: int) -> NDArray[np.integer]:
        """Return the ids of bucket ``SUBSET/NNNNN``, mapped.

        Args:
            name: the bucket.
            tokens: how many it must hold.

        Raises:
            DataError: the file is missing or has another size.
        """
        return self._map(name, tokens)[0]

    def advise(self, name: str, tokens: int, start: int, length: int) -> None:
        """Ask the kernel to read ahead `length` tokens from token `start` of a bucket."""
        ids, mapped = self._map(name, tokens)
        if mapped is None:
            return
        first = start * ids.itemsize
        aligned = first - first % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, aligned, first - aligned + length * ids.itemsize)

    def _open_bucket(self, name: str, tokens: int) -> tuple[NDArray[np.integer], mmap.mmap | None]:
        path = self.folder / f"{name}.bin"
        dtype = little_endian(self.identity.dtype)
        size = path.stat().st_size if path.is_file() else -1
        if size != tokens * dtype.itemsize:
            raise DataError(
                f"{path}: {'missing' if size < 0 else f'{size} bytes'}, but the manifest says "
                f"{tokens * dtype.itemsize} bytes. Run 'mobilellama shards verify --path "
                f"{self.folder}', which says what to rebuild"
            )
        if tokens == 0:  # nothing can be mapped, and nothing is read
            return np.empty(0, dtype), None
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # A plain array over the map: slicing np.memmap, a subclass, costs several times more.
        return np.frombuffer(mapped, dtype), mapped

    def bucket_index(self, name: str) -> BucketIndex:
        """Return where the documents of bucket ``SUBSET/NNNNN`` are.

        Raises:
            DataError: the file is missing, truncated or no index.
        """
        return read_index(self.folder / f"{name}.idx")

    def windows(self, subset: str, seq_len: int, split: Split = "train") -> "Windows":
        """Return the subset's samples of `seq_len` tokens to predict."""
        return Windows(self, subset, seq_len, split)


def _read_description(path: Path) -> tuple[dict[str, Any], Identity]:
    """Return the content of dataset.json, checked for what opening needs, and its identity."""
    remedy = rebuild_manifest(path.parent)
    try:
        description = read_json(path)
        version = description["identity"]["format_version"]
        missing = {"fingerprint", "manifest_sha256", "subsets"} - description.keys()
        if version == FORMAT_VERSION and not missing:
            return description, Identity(**description["identity"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path}: not the description of a dataset. {remedy}") from None
    if missing:
        raise DataError(f"{path}: lacks {', '.join(sorted(missing))}. {remedy}")
    raise DataError(
        f"{path}: format version {version}, but this program reads {FORMAT_VERSION}. "
        "Use the version of mobilellama that wrote it, or tokenise again"
    )


def _why_no_dataset(folder: Path) -> tuple[str, str]:
    """Return (rule, remedy) for a folder without dataset.json."""
    if not folder.is_dir():
        return "is not a folder", "Give the --output of 'mobilellama tokenize run'"
    if (folder / PLAN).is_file():
        return (
            "holds buckets that are not finished",
            "Run 'mobilellama tokenize run' again; it does only what is missing",
        )
    return f"holds no {DATASET}", "Give the --output of 'mobilellama tokenize run'"


@dataclass(frozen=True, kw_only=True)
class Span:
    """A sample's place: `length` tokens from token `start` of a bucket."""

    bucket: str
    """``SUBSET/NNNNN``."""
    bucket_tokens: int
    start: int
    length: int


class Windows:
    """Samples of ``seq_len + 1`` tokens, numbered through the buckets of a subset."""

    def __init__(self, dataset: TokenDataset, subset: str, seq_len: int, split: Split) -> None:
        assert seq_len >= 1, seq_len
        self._dataset, self.subset, self.seq_len = dataset, subset, seq_len
        rows = [row for row in dataset.rows if row["subset"] == subset]
        self._names = [bucket_name(subset, row["bucket"]) for row in rows]
        self._tokens = [row["tokens"] for row in rows]
        train = np.array([row["train_tokens"] for row in rows], dtype=np.int64)
        total = np.array(self._tokens, dtype=np.int64)
        first = np.zeros_like(train) if split == "train" else train
        available = train if split == "train" else total - train
        predictable = np.maximum(available - 1, 0)
        counts = predictable // seq_len
        self.tail_tokens = int((predictable - counts * seq_len).sum())
        """Tokens that could be predicted but stand in no whole sample."""
        # Lists, since a scalar look-up in one takes a tenth of the time of one in an array.
        ends = np.cumsum(counts)
        self._ends: list[int] = ends.tolist()
        # Sample s of bucket i starts at token origin_i + s * seq_len, s counted in the subset.
        self._origins: list[int] = (first - (ends - counts) * seq_len).tolist()

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._ends[-1] if self._ends else 0

    def _place(self, sample: int) -> tuple[int, int]:
        """Return (which of the subset's buckets, first token); O(log buckets)."""
        assert 0 <= sample < len(self), (self.subset, sample, len(self))
        i = bisect.bisect_right(self._ends, sample)
        return i, self._origins[i] + sample * self.seq_len

    def span(self, sample: int) -> Span:
        """Return where a sample's tokens are."""
        i, start = self._place(sample)
        return Span(
            bucket=self._names[i],
            bucket_tokens=self._tokens[i],
            start=start,
            length=self.seq_len + 1,
        )

    def tokens(self, sample: int) -> NDArray[np.integer]:
        """Return the sample's ids, shape (seq_len + 1,), mapped from its bucket, read-only."""
        i, start = self._place(sample)
        ids = self._dataset.bucket_tokens(self._names[i], self._tokens[i])
        return ids[start : start + self.seq_len + 1]

    def boundaries(self, sample: int) -> NDArray[np.int64]:
        """Return the offsets, 1 to seq_len, at which a new document starts inside the sample."""
        ids = self.tokens(sample)
        return np.flatnonzero(ids[:-1] == self._dataset.identity.eos_id) + 1

    def will_need(self, sample: int) -> None:
        """Ask the kernel to read the sample's pages ahead."""
        i, start = self._place(sample)
        self._dataset.advise(self._names[i], self._tokens[i], start, self.seq_len + 1)
