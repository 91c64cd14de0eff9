"""Compare every file of a dataset with the hash it was written with.

1. The manifest is the one that dataset.json names. This is checked at every opening of a dataset.
2. The fingerprint and the totals in dataset.json follow from the rows of the manifest. plan.json
   has the same identity.
3. Every .bin, .idx and .mask file has the size that follows from the manifest. This finds
   truncated and missing files at once, before any file is read.
4. Each of these files, the tokenizer, and every other file in dataset.json has its sha256.

With --sources, the corpus is compared with the hashes of the bytes that were read from it. Buckets
of older versions have no such hashes. Buckets of a table (a dataset on the Hub, a save_to_disk
folder) can only be compared by the same 'tokenize run'.

If anything differs, the command names the bad files and the buckets to write again, and exits with
code 2. With --redo it also removes the receipts of these buckets. The same 'tokenize run' (or 'sft
prepare') then writes these buckets again, and no others.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass

from mobilellama import log as logs
from mobilellama.config import require_at_least
from mobilellama.cpus import cpu_budget
from mobilellama.progress import Progress, format_amount, format_count
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.verification.checked_files import Fault, bucket_files, fault_of_size
from mobilellama.shards.verification.descriptions import (
    check_descriptions,
    faults_of_described,
    faults_of_receipts,
)
from mobilellama.shards.verification.hashing import hash_all, megabytes
from mobilellama.shards.verification.refusal import refuse
from mobilellama.shards.verification.sources import verify_sources


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'shards verify'."""

    dataset: str
    """The dataset folder."""
    sources: str | None = None
    """Also compare this corpus with the hashes in the dataset: the folder (for 'sft prepare', the
    file) that the dataset was made of."""
    workers: int | None = None
    """Files to read at the same time. None: one for each CPU that this process may use."""
    redo: bool = False
    """Remove the receipts of bad buckets, so that the same 'tokenize run' (or 'sft prepare') writes
    these buckets again. All files are read, even if a file has a wrong size."""

    def __post_init__(self) -> None:
        if self.workers is not None:
            require_at_least("workers", self.workers, 1)


def main(config: Config) -> int:
    """Check the dataset; say what was checked."""
    logs.configure()
    started_s = time.monotonic()
    dataset = TokenDataset(config.dataset, field="dataset")
    checked = verify_dataset(dataset, workers=config.workers, redo=config.redo)
    print(
        f"{dataset.folder}: good. {format_count(checked.files, 'file')}, "
        f"{format_amount(checked.bytes / 1e6, 'MB')}, "
        f"{time.monotonic() - started_s:.1f} s; fingerprint {dataset.fingerprint}"
    )
    if config.sources is not None:
        print(_verify_sources(dataset, config.sources, config.workers))
    return 0


def _verify_sources(dataset: TokenDataset, sources: str, workers: int | None) -> str:
    cores = cpu_budget(workers).count
    checked = verify_sources(dataset.folder, dataset.identity, sources, workers=cores)
    unknown = f"; not known of {checked.unknown:,} others" * bool(checked.unknown)
    return (
        f"{sources}: the sources of {format_count(checked.buckets, 'bucket')} are unchanged, "
        f"{format_amount(checked.bytes / 1e6, 'MB')}{unknown}"
    )


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was read and found good."""

    files: int
    bytes: int


def verify_dataset(
    dataset: TokenDataset,
    *,
    workers: int | None = None,
    buckets: Collection[str] | None = None,
    redo: bool = False,
) -> Checked:
    """Check the hashes of all files, or of some buckets' files.

    Args:
        dataset: opened, hence with a good manifest.
        workers: files read at the same time; None: as many as this process may use cores.
        buckets: ``SUBSET/NNNNN`` of the buckets to check; None checks all, and the
            descriptions too. Ranks that share the work take ``bucket_names(dataset)[rank::R]``.
        redo: remove the receipts of bad buckets.

    Raises:
        DataError: a file is missing or differs. Names the first in the manifest's order, and the
            buckets to write again.
    """
    faults: list[Fault] = []
    if buckets is None:
        check_descriptions(dataset)
        faults += faults_of_receipts(dataset)
        faults += faults_of_described(dataset, known={file.path for file, _ in faults})
    files = list(bucket_files(dataset, buckets))
    wrong = {file: fault for file in files if (fault := fault_of_size(file))}
    faults += wrong.items()
    if faults and not redo:  # a truncated file need not wait for a terabyte of hashes
        refuse(dataset, faults, redo=False)
    whole = [file for file in files if file not in wrong]
    with Progress("verify", total=sum(map(megabytes, whole)), unit="MB") as progress:
        faults += hash_all(whole, cpu_budget(workers).count, progress)
    if faults:
        refuse(dataset, faults, redo=redo)
    return Checked(files=len(files), bytes=sum(file.path.stat().st_size for file in files))
