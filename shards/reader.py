"""Reading a dataset: bucket files as memory maps, and the windows that samples are cut from.

``windows(seq_len)`` is the view that pretraining takes: a sample is ``seq_len + 1``
consecutive tokens and samples step by ``seq_len``, so that each token is predicted once. A
shorter tail of a bucket is left out and counted. The same files serve any ``seq_len``.

Opening reads one row a bucket; nothing grows with the number of tokens or samples.
"""

import mmap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mobilellama.config import ConfigError, DataError
from mobilellama.files import read_json, sha256_of_file
from mobilellama.shards.dataset import DATASET, MANIFEST, PLAN, TOKENIZER, Identity, bucket_name
from mobilellama.shards.format import BucketIndex, little_endian, read_index
from mobilellama.tokenizer import Tokenizer

Split = Literal["train", "heldout"]


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
        description = read_json(self.folder / DATASET)
        self.fingerprint: str = description["fingerprint"]
        self.identity = Identity(**description["identity"])
        self.totals: dict[str, dict[str, int]] = description["subsets"]
        if sha256_of_file(self.folder / MANIFEST) != description["manifest_sha256"]:
            raise DataError(
                f"{self.folder / MANIFEST}: not the manifest that {DATASET} was written with. "
                "Run 'mobilellama tokenize finish' again"
            )
        self._maps: dict[str, NDArray[np.integer]] = {}

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The manifest: one mapping a bucket, ordered by subset, then bucket."""
        import pyarrow.parquet as pq

        # Without threads: a pool costs more than this table, and does not survive a fork.
        return pq.ParquetFile(self.folder / MANIFEST).read(use_threads=False).to_pylist()

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
        if name not in self._maps:
            path = self.folder / f"{name}.bin"
            dtype = little_endian(self.identity.dtype)
            size = path.stat().st_size if path.is_file() else -1
            if size != tokens * dtype.itemsize:
                raise DataError(
                    f"{path}: {'missing' if size < 0 else f'{size} bytes'}, but the manifest says "
                    f"{tokens * dtype.itemsize} bytes. Run 'mobilellama shards verify'"
                )
            self._maps[name] = np.memmap(path, dtype=dtype, mode="r")
        return self._maps[name]

    def bucket_index(self, name: str) -> BucketIndex:
        """Return where the documents of bucket ``SUBSET/NNNNN`` are."""
        return read_index(self.folder / f"{name}.idx")

    def windows(self, subset: str, seq_len: int, split: Split = "train") -> "Windows":
        """Return the subset's samples of `seq_len` tokens to predict."""
        return Windows(self, subset, seq_len, split)


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
        self._dataset, self.subset, self.seq_len = dataset, subset, seq_len
        rows = [row for row in dataset.rows if row["subset"] == subset]
        self._names = [bucket_name(subset, row["bucket"]) for row in rows]
        self._tokens = [row["tokens"] for row in rows]
        train = np.array([row["train_tokens"] for row in rows], dtype=np.int64)
        total = np.array(self._tokens, dtype=np.int64)
        self._first = np.zeros_like(train) if split == "train" else train
        available = train if split == "train" else total - train
        counts = np.maximum(available - 1, 0) // seq_len
        self._ends = np.cumsum(counts)
        predicted = int(np.maximum(available - 1, 0).sum())
        self.tail_tokens = predicted - int(counts.sum()) * seq_len
        """Tokens that could be predicted but stand in no whole sample."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def span(self, sample: int) -> Span:
        """Return where a sample's tokens are; O(log buckets)."""
        assert 0 <= sample < len(self), (self.subset, sample, len(self))
        i = int(np.searchsorted(self._ends, sample, side="right"))
        within = sample - (int(self._ends[i - 1]) if i else 0)
        return Span(
            bucket=self._names[i],
            bucket_tokens=self._tokens[i],
            start=int(self._first[i]) + within * self.seq_len,
            length=self.seq_len + 1,
        )

    def tokens(self, sample: int) -> NDArray[np.integer]:
        """Return the sample's ids, shape (seq_len + 1,), mapped from its bucket."""
        span = self.span(sample)
        ids = self._dataset.bucket_tokens(span.bucket, span.bucket_tokens)
        return ids[span.start : span.start + span.length]

    def boundaries(self, sample: int) -> NDArray[np.int64]:
        """Return the offsets inside the sample at which a new document starts (never 0)."""
        ids = self.tokens(sample)
        return np.flatnonzero(ids[:-1] == self._dataset.identity.eos_id) + 1

    def will_need(self, sample: int) -> None:
        """Ask the kernel to read the sample's pages ahead."""
        span = self.span(sample)
        ids = self._dataset.bucket_tokens(span.bucket, span.bucket_tokens)
        mapped: mmap.mmap = ids._mmap  # pyright: ignore[reportAttributeAccessIssue]
        start = span.start * ids.itemsize
        aligned = start - start % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, aligned, start - aligned + span.length * ids.itemsize)
