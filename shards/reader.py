"""Reading a dataset: the checked folder, and its bucket files as memory maps.

Opening reads one row a bucket; nothing grows with the number of tokens. Samples are cut from
the buckets in windows.py, or are the packed rows of rows.py.
"""

import mmap
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import sha256_of_file
from mobilellama.files.sealed import SealError, read_sealed_json
from mobilellama.shards.dataset import (
    DATASET,
    FORMAT_VERSION,
    MANIFEST,
    PLAN,
    TEMPLATE,
    Identity,
    bucket_name,
    maker,
    rebuild_manifest,
    tokenizer_file,
    totals_of_rows,
)
from mobilellama.shards.format import BucketIndex, little_endian, read_index, require_uncut
from mobilellama.shards.rows import Rows
from mobilellama.shards.windows import Split, View, Windows
from mobilellama.tokenizers.tokenizer import HF_FOLDER, TextTokenizer, open_known_tokenizer

# A map holds a file descriptor, of which a process often may have 1,024; a corpus of 1.3T
# tokens has some 2,600 buckets. Opening one again costs some 20 microseconds.
_OPEN_BUCKETS = 512
_OPEN_INDEXES = 96  # and as many masks


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
        self.template = self.folder / TEMPLATE
        """The chat template that a dataset of rows was made with; other datasets have none."""
        self.fingerprint: str = description["fingerprint"]
        self.described_files: dict[str, str] = description.get("files", {})
        """sha256 by path of the files that dataset.json alone vouches for; older ones have none."""
        self.described_totals: dict[str, dict[str, int]] = description["subsets"]
        """What dataset.json says of the subsets, for people; ``totals`` are the manifest's."""
        manifest = self.folder / MANIFEST
        if not manifest.is_file() or sha256_of_file(manifest) != description["manifest_sha256"]:
            raise DataError(
                f"{manifest}: {'not the one' if manifest.is_file() else 'missing; the one'} that "
                f"{DATASET} was written with. {rebuild_manifest(self.folder)}"
            )
        self._map = lru_cache(maxsize=_OPEN_BUCKETS)(self._open_bucket)
        self._index = lru_cache(maxsize=_OPEN_INDEXES)(self._open_index)
        self._mask = lru_cache(maxsize=_OPEN_INDEXES)(self._open_mask)

    @cached_property
    def manifest(self) -> list[dict[str, Any]]:
        """The manifest: one mapping a bucket, ordered by subset, then bucket."""
        import pyarrow.parquet as pq

        # Without threads: a pool costs more than this table, and does not survive a fork.
        return pq.ParquetFile(self.folder / MANIFEST).read(use_threads=False).to_pylist()

    @cached_property
    def totals(self) -> dict[str, dict[str, int]]:
        """Sums of the manifest's counts, by subset."""
        return totals_of_rows(self.manifest)

    @cached_property
    def _manifest_by_name(self) -> dict[str, dict[str, Any]]:
        return {bucket_name(row["subset"], row["bucket"]): row for row in self.manifest}

    def require_as_described(self, path: Path) -> None:
        """Raise DataError unless a file has the sha256 that dataset.json names, if it does."""
        expected = self.described_files.get(str(path.relative_to(self.folder)))
        if expected and (not path.is_file() or sha256_of_file(path) != expected):
            raise DataError(
                f"{path}: missing, or not as it was written. Restore it from a copy, or run the "
                f"same 'mobilellama {maker(self.folder)}' again, which writes it anew"
            )

    def row(self, name: str) -> dict[str, Any]:
        """Return the manifest's row of bucket ``SUBSET/NNNNN``."""
        return self._manifest_by_name[name]

    @property
    def subsets(self) -> tuple[str, ...]:
        """Names of the subsets, sorted."""
        return tuple(sorted(self.totals))

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer that the dataset was made with."""
        own = tokenizer_file(self.folder)
        for name in self.described_files:  # the identity has the sha256 of the one that decides
            if name.startswith(f"{HF_FOLDER}/") and self.folder / name != own:
                self.require_as_described(self.folder / name)
        return open_known_tokenizer(own, self.identity.tokenizer_sha256, owner=str(self.folder))

    def bucket_tokens(self, name: str, tokens: int) -> NDArray[np.integer]:
        """Return the ids of bucket ``SUBSET/NNNNN``, mapped.

        Args:
            name: the bucket.
            tokens: how many it must hold.

        Raises:
            DataError: the file is missing or has another size.
        """
        ids, mapped = self._map(name, tokens)
        if mapped is not None:
            require_uncut(mapped, self.folder / f"{name}.bin")
        return ids

    def bucket_mask(self, name: str, tokens: int) -> NDArray[np.uint8]:
        """Return a byte for each token of bucket ``SUBSET/NNNNN``, mapped: 1 is supervised.

        Raises:
            DataError: the file is missing or has another size.
        """
        mask, mapped = self._mask(name, tokens)
        if mapped is not None:
            require_uncut(mapped, self.folder / f"{name}.mask")
        return mask

    def bucket_index(self, name: str) -> BucketIndex:
        """Return where the documents of bucket ``SUBSET/NNNNN`` are.

        Raises:
            DataError: the file is missing, truncated or no index.
        """
        index = self._index(name)
        require_uncut(index.mapped, self.folder / f"{name}.idx")
        return index

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

    def _open_mask(self, name: str, tokens: int) -> tuple[NDArray[np.uint8], mmap.mmap | None]:
        path = self.folder / f"{name}.mask"
        size = path.stat().st_size if path.is_file() else -1
        if size != tokens:
            raise DataError(
                f"{path}: {'missing' if size < 0 else f'{size} bytes'}, but the manifest says "
                f"{tokens} bytes. Run 'mobilellama shards verify --path {self.folder}'"
            )
        if tokens == 0:
            return np.empty(0, np.uint8), None
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, np.uint8), mapped

    def _open_index(self, name: str) -> BucketIndex:
        return read_index(self.folder / f"{name}.idx")

    def windows(self, subset: str, seq_len: int, split: Split = "train") -> Windows:
        """Return the subset's samples of `seq_len` tokens to predict."""
        return Windows(self, subset, seq_len, split)

    def view(self, subset: str, seq_len: int, split: Split = "train") -> View:
        """Return the subset's samples: packed rows where the dataset has them, else windows.

        Raises:
            ConfigError: the rows were packed to another length.
        """
        if not self.identity.packing:
            return self.windows(subset, seq_len, split)
        packed = self.identity.packing["seq_len"]
        if seq_len != packed:
            rule = f"{self.folder} holds rows packed to {packed} tokens"
            raise ConfigError("train.seq_len", seq_len, rule, f"Use {packed}, or prepare again")
        return Rows(self, subset, split)


def _read_description(path: Path) -> tuple[dict[str, Any], Identity]:
    """Return the content of dataset.json, checked for what opening needs, and its identity."""
    remedy = rebuild_manifest(path.parent)
    try:
        description = read_sealed_json(path, owner=path.parent)
        version = description["identity"]["format_version"]
        missing = {"fingerprint", "manifest_sha256", "subsets"} - description.keys()
        if version == FORMAT_VERSION and not missing:
            return description, Identity(**description["identity"])
    except SealError as error:
        raise DataError(f"{path}: is damaged ({error}). {remedy}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path}: not the description of a dataset. {remedy}") from None
    if missing:
        raise DataError(f"{path}: lacks {', '.join(sorted(missing))}. {remedy}")
    raise DataError(
        f"{path}: format version {version}, but this program reads {FORMAT_VERSION}. "
        "Use the version of mobilellama that wrote it, or tokenise again"
    )


def _why_no_dataset(folder: Path) -> tuple[str, str]:
    """Return (rule, remedy) for a folder without dataset.json."""
    remedy = "Give the --output of 'mobilellama tokenize run', or of 'mobilellama sft prepare'"
    if not folder.is_dir():
        return "is not a folder", remedy
    if (folder / PLAN).is_file():
        return (
            "holds buckets that are not finished",
            f"Run 'mobilellama {maker(folder)}' again; it does only what is missing",
        )
    return f"holds no {DATASET}", remedy
