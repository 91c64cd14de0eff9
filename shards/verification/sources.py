"""Compare the sources of a dataset with the hashes of what was read of them.

The receipt of a bucket has the sha256 of the bytes that the bucket was made of: a file, or a range
of a large one. So the ranges of one file of 100 GB are read in parallel, too.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mobilellama.config import ConfigError, DataError
from mobilellama.progress import Progress
from mobilellama.shards.dataset import PLAN, Identity, Plan, read_receipt
from mobilellama.shards.source_file import SourceRange
from mobilellama.shards.sources.located import locate, require_corpus, state_of
from mobilellama.shards.sources.remote import is_url
from mobilellama.shards.verification.checked_files import CheckedFile, Fault
from mobilellama.shards.verification.hashing import hash_all
from mobilellama.shards.verification.journal import Journal
from mobilellama.shards.verification.refusal import shown_buckets

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CheckedSources:
    """What was compared."""

    buckets: int
    bytes: int
    known_bytes: int
    """Of these, the bytes that the journal knew."""
    unknown: int
    """Buckets whose receipts do not say what they were made of, or that were made of tables."""


def verify_sources(
    folder: Path, identity: Identity, given: str, *, workers: int, journal: Journal | None = None
) -> CheckedSources:
    """Compare the sources below a folder or a URL with what the buckets were made of.

    Args:
        folder: the dataset's.
        identity: the dataset's.
        given: the corpus, as it was given when the dataset was made.
        workers: files and ranges read at the same time.
        journal: knows the good ones, and notes them.

    Raises:
        ConfigError: there is no such folder or file, or it has none of the sources.
        DataError: a source is missing or differs. The message names the first, and the buckets.
    """
    require_corpus(given, "Give the corpus that the dataset was made of")
    try:
        plan = Plan.read(folder)
    except FileNotFoundError:
        raise DataError(f"{folder / PLAN}: missing, but it is needed to find the sources") from None
    parts = list(_parts(folder, identity, plan, given))
    unread = [part for part in parts if not (journal and journal.knows(part))]
    total, left = (sum(part.num_bytes for part in some) for some in (parts, unread))
    with Progress("verify the sources", total=left / 1e6, unit="MB") as progress:
        faults = hash_all(unread, workers, progress, journal)
    if faults:
        if not any(state_of(part.path) for part in parts):
            rule = f"holds none of the files that the dataset was made of, such as {parts[0].path}"
            raise ConfigError("sources", given, rule, "Give the corpus that it was made of")
        _refuse(faults)
    return CheckedSources(
        buckets=len(parts),
        bytes=total,
        known_bytes=total - left,
        unknown=len(plan.slices) - len(parts),
    )


def _parts(folder: Path, identity: Identity, plan: Plan, given: str) -> Iterator[CheckedFile]:
    hashes = (identity.packing and identity.packing.sources_sha256) or {}
    for slice_ in plan.slices:
        if slice_.unit != "bytes":
            continue
        path, _ = locate(slice_, given)
        if sha256 := hashes.get(slice_.source):
            yield CheckedFile(path=path, size=None, sha256=sha256, bucket=slice_.name)
            continue
        receipt = read_receipt(folder, slice_, identity)
        if receipt and (known := SourceRange.from_json(receipt.source_file)):
            is_whole = (known.start, known.end) == (0, slice_.size)
            yield CheckedFile(
                path=path,
                start=known.start,
                # To its end now, if it has grown. A server is asked for the size, when it is read.
                end=None if is_whole and not is_url(given) else known.end,
                size=slice_.size if is_url(given) else None,
                sha256=known.sha256,
                bucket=slice_.name,
            )


def _refuse(faults: list[Fault]) -> None:
    """Raise DataError for the first fault, after a line for each of the others."""
    (first, *others) = [
        f"{part.path}{_extent(part)}, of which bucket {part.bucket} was made: {fault}"
        for part, fault in faults
    ]
    for line in others:
        log.warning("%s", line)
    more = f" (and {len(others):,} more bad)" if others else ""
    buckets = shown_buckets([part.bucket for part, _ in faults if part.bucket])
    raise DataError(
        f"{first}{more}. Buckets made of other bytes: {buckets}. Restore the sources, or make "
        "another dataset"
    )


def _extent(part: CheckedFile) -> str:
    return "" if part.end is None else f": bytes {part.start:,} to {part.end:,}"
