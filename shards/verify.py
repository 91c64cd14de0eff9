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

import contextlib
import logging
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

from mobilellama import log as logs
from mobilellama.config import DataError, require_at_least
from mobilellama.cpus import cpu_budget
from mobilellama.files.atomic import sha256_of_file
from mobilellama.progress import Progress, format_amount, format_count
from mobilellama.shards.dataset import (
    DATASET,
    PLAN,
    Identity,
    Plan,
    bucket_name,
    maker,
    read_receipt,
    tokenizer_file,
)
from mobilellama.shards.format import index_bytes, little_endian
from mobilellama.shards.manifest import (
    ManifestRow,
    PackedManifestRow,
    fingerprint_of_rows,
    rebuild_manifest,
    row_hashes,
)
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.verify_sources import verify_sources
from mobilellama.tokenizers.text_tokenizer import HF_FOLDER

log = logging.getLogger(__name__)

_BUCKETS_SHOWN = 20
_COPY_TOKENIZER = "Copy the tokenizer that the dataset was made with there"


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


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file, with the size and hash it must have."""

    path: Path
    size: int | None
    """None where any size will do, the hash being checked anyway."""
    sha256: str
    bucket: str | None = None
    """``SUBSET/NNNNN`` of a file of a bucket."""
    remedy: str = ""
    """What to do about another file."""


_Fault = tuple[_File, str]
"""A bad file, and what is wrong with it."""


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
    faults: list[_Fault] = []
    if buckets is None:
        _check_descriptions(dataset)
        faults += _faults_of_receipts(dataset)
        faults += _faults_of_described(dataset, known={file.path for file, _ in faults})
    files = list(_files(dataset, buckets))
    wrong = {file: fault for file in files if (fault := _fault_of_size(file))}
    faults += wrong.items()
    if faults and not redo:  # a truncated file need not wait for a terabyte of hashes
        _refuse(dataset, faults, redo=False)
    whole = [file for file in files if file not in wrong]
    with Progress("verify", total=sum(map(_megabytes, whole)), unit="MB") as progress:
        faults += _hash_all(whole, cpu_budget(workers).count, progress)
    if faults:
        _refuse(dataset, faults, redo=redo)
    return Checked(files=len(files), bytes=sum(file.path.stat().st_size for file in files))


def bucket_names(dataset: TokenDataset) -> list[str]:
    """Return ``SUBSET/NNNNN`` of every bucket, in the manifest's order."""
    return [bucket_name(row["subset"], row["bucket"]) for row in dataset.manifest]


def _files(dataset: TokenDataset, buckets: Collection[str] | None) -> Iterator[_File]:
    folder, identity = dataset.folder, dataset.identity
    for row in dataset.manifest:
        name = bucket_name(row["subset"], row["bucket"])
        if buckets is None or name in buckets:
            for ending, sha256 in sorted(row_hashes(row).items()):
                yield _File(
                    path=folder / f"{name}.{ending}",
                    size=_expected_size(ending, row, identity),
                    sha256=sha256,
                    bucket=name,
                )
    if buckets is None:
        yield _File(
            path=tokenizer_file(folder),
            size=None,
            sha256=identity.tokenizer_sha256,
            remedy=_COPY_TOKENIZER,
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


def _fault_of_size(file: _File) -> str | None:
    if not file.path.is_file():
        return "missing"
    size = file.path.stat().st_size
    if file.size in (None, size):
        return None
    return f"{size:,} bytes, expected {file.size:,}"


def _fault_of_hash(file: _File) -> str | None:
    try:
        found = sha256_of_file(file.path)
    except OSError as error:  # a bad block of the disk is what this command is for
        return f"cannot be read ({error.strerror})"
    if found == file.sha256:
        return None
    return f"sha256 {found[:12]}..., expected {file.sha256[:12]}..."


def _megabytes(file: _File) -> float:
    with contextlib.suppress(OSError):  # of a file that is gone, the hash tells
        return file.path.stat().st_size / 1e6
    return 0.0


def _hash_all(files: list[_File], workers: int, progress: Progress) -> list[_Fault]:
    """Hash the files in threads (hashing and reading both release the interpreter's lock)."""
    faults: dict[int, str] = {}
    with ThreadPoolExecutor(max_workers=workers) as pool:
        running: dict[Future[str | None], int] = {
            pool.submit(_fault_of_hash, file): i for i, file in enumerate(files)
        }
        try:
            for future in as_completed(running):
                i = running[future]
                if fault := future.result():
                    faults[i] = fault
                progress.advance(_megabytes(files[i]))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for a terabyte
            raise
    return [(files[i], faults[i]) for i in sorted(faults)]


def _refuse(dataset: TokenDataset, faults: list[_Fault], *, redo: bool) -> NoReturn:
    """Raise DataError for the first of the bad files; log the others, and name the buckets.

    Args:
        dataset: the dataset.
        faults: the bad files, at least one.
        redo: remove the receipts of bad buckets.
    """
    order = {name: i for i, name in enumerate(bucket_names(dataset))}
    faults.sort(key=lambda fault: order.get(fault[0].bucket or "", len(order)))
    for file, fault in faults[1:]:
        log.warning("%s: %s", file.path, fault)
    bad = list(dict.fromkeys(file.bucket for file, _ in faults if file.bucket is not None))
    remedies = list(dict.fromkeys(file.remedy for file, _ in faults if file.remedy))
    if bad:
        again = f"the same 'mobilellama {maker(dataset.folder)}' again: it writes only these"
        shown = ", ".join(bad[:_BUCKETS_SHOWN])
        more = f" and {len(bad) - _BUCKETS_SHOWN:,} more" if len(bad) > _BUCKETS_SHOWN else ""
        if redo:
            for name in bad:
                (dataset.folder / f"{name}.json").unlink(missing_ok=True)
            done = f"Bad buckets: {shown}{more}. Their receipts are removed. Run {again}"
        else:
            verify = f"'mobilellama shards verify {dataset.folder} --redo true'"
            done = f"Bad buckets: {shown}{more}. Run {verify}, then {again}"
        remedies.insert(0, done)
    file, fault = faults[0]
    others = f" (and {len(faults) - 1:,} more bad)" if len(faults) > 1 else ""
    raise DataError(f"{file.path}: {fault}{others}. {'. '.join(remedies)}")


def _check_descriptions(dataset: TokenDataset) -> None:
    """Raise DataError unless dataset.json and plan.json say what the manifest says.

    Receipts may be missing, since only tokenising needs them, but not broken.
    """
    path, remedy = dataset.folder / DATASET, rebuild_manifest(dataset.folder)
    found = fingerprint_of_rows(dataset.identity, dataset.manifest)
    if found != dataset.fingerprint:
        raise DataError(
            f"{path}: its fingerprint is {dataset.fingerprint[:12]}..., but its identity and the "
            f"manifest give {found[:12]}.... {remedy}"
        )
    if dataset.described_totals != dataset.totals:
        raise DataError(f"{path}: its totals are not the manifest's. {remedy}")
    plan = dataset.folder / PLAN
    try:
        planned = Plan.read(dataset.folder)
    except FileNotFoundError:
        return  # only tokenising needs the plan
    except DataError as error:
        what = str(error).partition(". ")[0]
        raise DataError(f"{what}. Restore it from a copy (only tokenising reads it)") from None
    if planned.identity != dataset.identity:
        raise DataError(
            f"{plan}: its identity is not that of {DATASET}, which the fingerprint confirms. "
            "Restore it from a copy (only tokenising reads it)"
        )


def _faults_of_receipts(dataset: TokenDataset) -> Iterator[_Fault]:
    """Yield the receipts that are broken, or belong to another plan."""
    if not (dataset.folder / PLAN).is_file():
        return
    planned = Plan.read(dataset.folder)
    for slice_ in planned.slices:
        try:
            read_receipt(dataset.folder, slice_, planned.identity)
        except DataError as error:
            path = dataset.folder / f"{slice_.name}.json"
            fault = str(error).removeprefix(f"{path}: ").partition(". Remove ")[0]
            yield _File(path=path, size=None, sha256="", bucket=slice_.name), fault


def _faults_of_described(dataset: TokenDataset, known: Collection[Path]) -> Iterator[_Fault]:
    """Yield the files that dataset.json names and that do not have their sha256.

    The plan and receipts may be missing, since only tokenising needs them.

    Args:
        dataset: the dataset.
        known: files that are known to be bad.
    """
    folder = dataset.folder
    made_again = f"Run the same 'mobilellama {maker(folder)}' again: it writes the file anew"
    for name, sha256 in dataset.described_files.items():
        path = folder / name
        is_receipt = path.suffix == ".json" and path.stem.isdigit()
        may_be_missing = name == PLAN or is_receipt
        if path in {tokenizer_file(folder), *known} or (may_be_missing and not path.exists()):
            continue
        bucket, remedy = (name.removesuffix(".json"), "") if is_receipt else (None, made_again)
        remedy = _COPY_TOKENIZER if name.startswith(HF_FOLDER) else remedy
        file = _File(path=path, size=None, sha256=sha256, bucket=bucket, remedy=remedy)
        if fault := _fault_of_size(file) or _fault_of_hash(file):
            yield file, fault
