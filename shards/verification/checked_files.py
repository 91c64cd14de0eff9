"""The files of a dataset that are verified: the size and hash that each must have."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import cast

from mobilellama.shards.dataset import Identity, bucket_name, tokenizer_file
from mobilellama.shards.format import index_bytes, little_endian
from mobilellama.shards.manifest import ManifestRow, PackedManifestRow, row_hashes
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.sources.located import state_of
from mobilellama.shards.sources.remote import SourcePath

COPY_TOKENIZER = "Copy the tokenizer that the dataset was made with there"


@dataclass(frozen=True, kw_only=True)
class CheckedFile:
    """A file or a range of it, with the size and hash it must have."""

    path: SourcePath
    start: int = 0
    """The first byte that is hashed."""
    end: int | None = None
    """The one after the last. None: the end of the file."""
    size: int | None
    """Of the whole file. None: any, since the hash is compared."""
    sha256: str
    bucket: str | None = None
    """``SUBSET/NNNNN`` of a file of a bucket, or of the bucket that was made of the range."""
    remedy: str = ""
    """What to do about a file that is not of a bucket."""

    @property
    def num_bytes(self) -> int:
        """The bytes to read; 0 if the file is gone."""
        if self.end is not None:
            return self.end - self.start
        state = state_of(self.path)  # of a file that is gone, the hash tells
        return state.size if state else 0


Fault = tuple[CheckedFile, str]
"""A bad file, and what is wrong with it."""


def bucket_names(dataset: TokenDataset) -> list[str]:
    """Return ``SUBSET/NNNNN`` of every bucket, in the manifest's order."""
    return [bucket_name(row["subset"], row["bucket"]) for row in dataset.manifest]


def bucket_files(dataset: TokenDataset, buckets: Collection[str] | None) -> Iterator[CheckedFile]:
    """Yield the files of all buckets and the tokenizer, or of some buckets alone."""
    folder, identity = dataset.folder, dataset.identity
    for row in dataset.manifest:
        name = bucket_name(row["subset"], row["bucket"])
        if buckets is None or name in buckets:
            for ending, sha256 in sorted(row_hashes(row).items()):
                yield CheckedFile(
                    path=folder / f"{name}.{ending}",
                    size=_expected_size(ending, row, identity),
                    sha256=sha256,
                    bucket=name,
                )
    if buckets is None:
        yield CheckedFile(
            path=tokenizer_file(folder),
            size=None,
            sha256=identity.tokenizer_sha256,
            remedy=COPY_TOKENIZER,
        )


def _expected_size(ending: str, row: ManifestRow, identity: Identity) -> int | None:
    if ending == "bin":
        return row["tokens"] * little_endian(identity.dtype).itemsize
    if ending == "mask":
        return row["tokens"]
    if ending != "idx":
        return None
    rows = cast(PackedManifestRow, row)["rows"] if identity.packing else None
    return index_bytes(row["documents"], rows)


def fault_of_size(file: CheckedFile) -> str | None:
    """Return what is wrong with a file without reading it. None: nothing."""
    state = state_of(file.path)
    if state is None:
        return "missing"
    size = state.size
    if file.size in (None, size):
        return None
    return f"{size:,} bytes, expected {file.size:,}"
