"""The parts of an export: consecutive buckets of one subset and split, in their stored order.

A part is what one output file holds. It ends with the bucket in which it reaches the wished number
of tokens, so that each part can be written, lost and written again by itself. Every file of a
bucket is compared with its sha256 before any of it is used.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mobilellama.config import DataError
from mobilellama.shards.dataset import bucket_name
from mobilellama.shards.format import BucketIndex
from mobilellama.shards.manifest import ManifestRow, row_hashes
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.windows import Split

SPLITS: tuple[Split, ...] = ("train", "heldout")


@dataclass(frozen=True, kw_only=True)
class ExportPart:
    """Some buckets of a subset, of which one split goes into one file."""

    subset: str
    split: Split
    number: int
    """From 0, within the subset and split."""
    rows: tuple[ManifestRow, ...]

    @property
    def name(self) -> str:
        """``SUBSET/SPLIT-NNNNN``, the path of its files without their ending."""
        return f"{self.subset}/{self.split}-{self.number:05}"

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return sum(tokens_of(row, self.split) for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class Portion:
    """What one bucket holds of a split."""

    ids: NDArray[np.integer]
    """(tokens,) mapped from the bucket, EOS included."""
    lengths: NDArray[np.int32]
    """(sequences,) tokens of each document, or of each conversation of packed rows."""
    rows: NDArray[np.int64] | None
    """(rows + 1,) of packed rows: the first sequence of each, then the number of sequences."""
    mask: NDArray[np.uint8] | None
    """(tokens,) of packed rows: 1 where a token is supervised."""


class PartFormat(Protocol):
    """The files of one kind of export."""

    @property
    def endings(self) -> tuple[str, ...]:
        """Of a part's files."""
        ...

    @property
    def bytes_a_token(self) -> float:
        """About how much disk a token takes."""
        ...

    def write_part(self, stem: Path, part: ExportPart, portions: Iterable[Portion]) -> None:
        """Write a part's files. `stem` is their path without ending."""
        ...

    def write_around(self, folder: Path, parts: Sequence[ExportPart]) -> list[str]:
        """Write what a reader needs beside the parts; return the names of these files."""
        ...

    def how_to_read(self, folder: Path, part: ExportPart) -> str:
        """Return the line that tells how to use the files."""
        ...


def tokens_of(row: ManifestRow, split: Split) -> int:
    """Return how many tokens of a bucket belong to a split."""
    train = row["train_tokens"]
    return train if split == "train" else row["tokens"] - train


def split_into_parts(
    manifest: Iterable[ManifestRow], subsets: Iterable[str], part_tokens: float
) -> list[ExportPart]:
    """Return the parts, by subset, then split. Buckets without a token of the split are left out.

    Args:
        manifest: the dataset's rows, in their order.
        subsets: which to take.
        part_tokens: a part ends with the bucket in which it reaches so many tokens.
    """
    rows = list(manifest)
    parts: list[ExportPart] = []
    for subset in subsets:
        for split in SPLITS:
            groups: list[list[ManifestRow]] = []
            size = part_tokens
            for row in rows:
                if row["subset"] != subset or not tokens_of(row, split):
                    continue
                if size >= part_tokens:
                    groups.append([])
                    size = 0
                groups[-1].append(row)
                size += tokens_of(row, split)
            parts += [
                ExportPart(subset=subset, split=split, number=i, rows=tuple(group))
                for i, group in enumerate(groups)
            ]
    return parts


class PortionReader:
    """Reads portions of buckets, each of whose files is compared once with its sha256."""

    def __init__(self, dataset: TokenDataset) -> None:
        self._dataset = dataset
        self._checked: set[str] = set()

    def read(self, part: ExportPart) -> Iterator[Portion]:
        """Yield the portion of each bucket of a part.

        Raises:
            DataError: a file is missing, truncated, or not the one that was written.
        """
        for row in part.rows:
            yield self._portion(row, part.split)

    def _portion(self, row: ManifestRow, split: Split) -> Portion:
        name = bucket_name(row["subset"], row["bucket"])
        ids = self._dataset.bucket_tokens(name, row["tokens"])
        index = self._dataset.bucket_index(name)
        is_packed = self._dataset.identity.packing is not None
        mask = self._dataset.bucket_mask(name, row["tokens"]) if is_packed else None
        self._require_unchanged(name, row, ids, index, mask)
        # Train and held-out tokens meet at the boundary of a document or row.
        cut = int(np.searchsorted(index.starts, row["train_tokens"]))
        tokens, sequences = slice(row["train_tokens"]), slice(cut)
        if split == "heldout":
            tokens, sequences = slice(row["train_tokens"], None), slice(cut, None)
        return Portion(
            ids=ids[tokens],
            lengths=index.lengths[sequences],
            rows=_rows(index, cut, split) if is_packed else None,
            mask=None if mask is None else mask[tokens],
        )

    def _require_unchanged(
        self,
        name: str,
        row: ManifestRow,
        ids: NDArray[np.integer],
        index: BucketIndex,
        mask: NDArray[np.uint8] | None,
    ) -> None:
        if name in self._checked:
            return
        contents = {"bin": ids.data, "idx": memoryview(index.mapped)}
        if mask is not None:
            contents["mask"] = mask.data
        expected = row_hashes(row)
        for ending, content in contents.items():
            if (found := hashlib.sha256(content).hexdigest()) != expected.get(ending):
                folder = self._dataset.folder
                raise DataError(
                    f"{folder / name}.{ending}: sha256 {found}, expected {expected.get(ending)}. "
                    f"Run 'mobilellama shards verify {folder}', which says how to rebuild it"
                )
        self._checked.add(name)


def _rows(index: BucketIndex, cut: int, split: Split) -> NDArray[np.int64]:
    """Return the (rows + 1,) first sequences of a split's rows, counted from its first one."""
    documents = np.array(index.documents)
    first = int(np.searchsorted(documents, cut))
    return documents[: first + 1] if split == "train" else documents[first:] - cut
