"""Compare every file of a dataset with the hash it was written with.

  mobilellama shards verify DATASET                    all files of the dataset
  mobilellama shards verify DATASET --sources CORPUS   also the corpus that it was made of
  mobilellama shards verify DATASET --redo true        have the bad buckets written again

1. The manifest is the one that dataset.json names. This is checked at every opening of a dataset.
2. The fingerprint and the totals in dataset.json follow from the rows of the manifest. plan.json
   has the same identity.
3. Every .bin, .idx and .mask file has the size that follows from the manifest. This finds
   truncated and missing files at once, before any of them is read.
4. Each of these files, the tokenizer, and every other file in dataset.json has its sha256.

With --sources, the corpus is compared with the hashes of the bytes that were read from it. Buckets
of older versions have no such hashes. Buckets of a table (a dataset on the Hub, a save_to_disk
folder) can only be compared by the same 'tokenize run'.

If anything differs, the command names the bad files and the buckets to write again, and exits with
code 2. With --redo it also removes the receipts of these buckets. The same 'tokenize run' (or 'sft
prepare') then writes these buckets again, and no others.

Files that were found good are noted in DATASET/verify.jsonl until all are good. If the command is
interrupted or finds bad files, the same command reads only the others, and those that were written
anew. It says so. Notes older than a week do not count, and --all true reads every file.
"""

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mobilellama import log as logs
from mobilellama.config import require_at_least
from mobilellama.cpus import cpu_budget
from mobilellama.progress import Progress, format_amount, format_count
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.verification.checked_files import Fault, bucket_files, fault_of_size
from mobilellama.shards.verification.descriptions import (
    check_descriptions,
    described_files,
    faults_of_receipts,
)
from mobilellama.shards.verification.hashing import hash_all
from mobilellama.shards.verification.journal import JOURNAL, Journal
from mobilellama.shards.verification.refusal import refuse
from mobilellama.shards.verification.sources import verify_sources

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'shards verify'."""

    dataset: str
    """The dataset folder."""
    sources: str | None = None
    """Also compare this corpus with the hashes in the dataset: the folder or URL (for
    'sft prepare', the file) that the dataset was made of."""
    workers: int | None = None
    """Files to read at the same time. None: one for each CPU that this process may use. A network
    disk may serve more at the same time faster."""
    redo: bool = False
    """Remove the receipts of bad buckets, so that the same 'tokenize run' (or 'sft prepare') writes
    these buckets again. All files are read, even if a file has a wrong size."""
    all: bool = False
    """Read every file, also those that an unfinished check has found good."""
    journal: str | None = None
    """File that notes good files until all are good. None: verify.jsonl in the dataset folder. Give
    another file if that folder is read-only."""

    def __post_init__(self) -> None:
        if self.workers is not None:
            require_at_least("workers", self.workers, 1)


def main(config: Config) -> int:
    """Check the dataset; say what was checked."""
    logs.configure()
    started_s = time.monotonic()
    dataset = TokenDataset(config.dataset, field="dataset")
    path = Path(config.journal) if config.journal else dataset.folder / JOURNAL
    asked = config.journal is not None
    with Journal(path, asked=asked, afresh=config.all) as journal:
        checked = verify_dataset(dataset, workers=config.workers, redo=config.redo, journal=journal)
        print(
            f"{dataset.folder}: good. {format_count(checked.files, 'file')}, "
            f"{_amounts(checked.bytes, checked.known_bytes)}, "
            f"{time.monotonic() - started_s:.1f} s; fingerprint {dataset.fingerprint}"
        )
        if config.sources is not None:
            print(_verify_sources(dataset, config.sources, config.workers, journal))
        journal.remove()
    return 0


def _verify_sources(
    dataset: TokenDataset, sources: str, workers: int | None, journal: Journal
) -> str:
    checked = verify_sources(
        dataset.folder,
        dataset.identity,
        sources,
        workers=cpu_budget(workers).count,
        journal=journal,
    )
    unknown = f"; not known of {checked.unknown:,} others" * bool(checked.unknown)
    return (
        f"{sources}: the sources of {format_count(checked.buckets, 'bucket')} are unchanged, "
        f"{_amounts(checked.bytes, checked.known_bytes)}{unknown}"
    )


def _amounts(num_bytes: int, known_bytes: int) -> str:
    known = f" ({format_amount(known_bytes / 1e6, 'MB')} of them read by an unfinished check)"
    return format_amount(num_bytes / 1e6, "MB") + known * bool(known_bytes)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found good."""

    files: int
    bytes: int
    known_bytes: int
    """Of these, the bytes that the journal knew."""


def verify_dataset(
    dataset: TokenDataset,
    *,
    workers: int | None = None,
    buckets: Collection[str] | None = None,
    redo: bool = False,
    journal: Journal | None = None,
) -> Checked:
    """Check the hashes of all files, or of some buckets' files.

    Args:
        dataset: opened, hence with a good manifest.
        workers: files read at the same time; None: as many as this process may use cores.
        buckets: ``SUBSET/NNNNN`` of the buckets to check; None checks all, and the
            descriptions too. Ranks that share the work take ``bucket_names(dataset)[rank::R]``.
        redo: remove the receipts of bad buckets.
        journal: knows files of buckets that are good, and notes them.

    Raises:
        DataError: a file is missing or differs. Names the first in the manifest's order, and the
            buckets to write again.
    """
    budget = cpu_budget(workers)
    faults = _faults_of_descriptions(dataset, budget.count) if buckets is None else []
    files = list(bucket_files(dataset, buckets))
    wrong = {file: fault for file in files if (fault := fault_of_size(file))}
    faults += wrong.items()
    if faults and not redo:  # a truncated file need not wait for a terabyte of hashes
        refuse(dataset, faults, redo=False)
    whole = [file for file in files if file not in wrong]
    unread = [file for file in whole if not (journal and journal.knows(file))]
    total, left = (sum(file.num_bytes for file in some) for some in (whole, unread))
    if journal:
        amounts = f"{format_count(len(unread), 'file')}, {format_amount(left / 1e6, 'MB')}"
        log.info("verify %s: %s, %s", dataset.folder, amounts, budget.describe("reader"))
        journal.tell_known(len(whole) - len(unread))
    with Progress("verify", total=left / 1e6, unit="MB") as progress:
        faults += hash_all(unread, budget.count, progress, journal)
    if faults:
        refuse(dataset, faults, redo=redo)
    return Checked(files=len(files), bytes=total, known_bytes=total - left)


def _faults_of_descriptions(dataset: TokenDataset, workers: int) -> list[Fault]:
    """Return the faults of what dataset.json vouches for. These files are small."""
    check_descriptions(dataset)
    faults = list(faults_of_receipts(dataset))
    described = list(described_files(dataset, known={file.path for file, _ in faults}))
    wrong = {file: fault for file in described if (fault := fault_of_size(file))}
    there = [file for file in described if file not in wrong]
    return [*faults, *wrong.items(), *hash_all(there, workers)]
