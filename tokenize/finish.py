"""Make a dataset of finished buckets.

The command checks the buckets, removes temporary files, and writes manifest.parquet and
dataset.json. 'tokenize run' does this itself, unless it is one of several tasks (--task_count).
"""

import contextlib
import itertools
import logging
import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellama import log as logs
from mobilellama.config import ConfigError, DataError, UserError
from mobilellama.files.json_lines import LONGEST_LINE_BYTES
from mobilellama.files.temporary import remove_abandoned, temporaries
from mobilellama.progress import format_amount, format_count
from mobilellama.shards.dataset import (
    DATASET,
    MANIFEST,
    PLAN,
    TOKENIZER,
    Plan,
    Receipt,
    Slice,
    bucket_name,
    read_receipt,
)
from mobilellama.shards.format import read_index
from mobilellama.shards.manifest import write_dataset
from mobilellama.shards.source_file import SourceRange
from mobilellama.table import aligned
from mobilellama.tokenize.bucket_files import is_finished
from mobilellama.tokenizers.text_tokenizer import HF_FOLDER

log = logging.getLogger(__name__)

_MISSING_SHOWN = 5
_BAD_SHOWN = 3
_LAST_WRITER_S = 5.0
_FINISHERS = 16  # so many may finish a folder at the same instant

_IN_FOLDER = re.compile("|".join(map(re.escape, (PLAN, TOKENIZER, MANIFEST, DATASET))))
_IN_TOKENIZER = re.compile(r"[a-z_]+\.(json|jinja|model|txt)")
_IN_SUBSET = re.compile(r"[0-9]{5,}\.(bin|idx|json)")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'tokenize finish'."""

    output: str
    """Folder that 'tokenize run' was given as --output."""


def main(config: Config) -> int:
    """Finish the dataset and print what it holds."""
    logs.configure()
    folder = Path(config.output)
    if not (folder / PLAN).is_file():
        rule = f"holds no {PLAN}"
        raise ConfigError("output", config.output, rule, "Give the --output of 'tokenize run'")
    print(finish_dataset(folder))
    return 0


def finish_dataset(folder: Path) -> str:
    """Write the manifest and dataset.json of a folder whose buckets are all there.

    Returns:
        A table of the subsets, and the fingerprint.

    Raises:
        UserError: a bucket is missing, or an earlier version left long records out of one.
        DataError: no bucket holds a document.
    """
    plan = Plan.read(folder)
    missing = [s.name for s in plan.slices if not is_finished(folder, s, plan.identity)]
    if missing:
        names = ", ".join(missing[:_MISSING_SHOWN]) + (", ..." * (len(missing) > _MISSING_SHOWN))
        done, all_ = len(plan.slices) - len(missing), format_count(len(plan.slices), "bucket")
        raise UserError(
            f"{folder}: has only {done:,} of {all_}. Missing: {names}. "
            "Run 'mobilellama tokenize run' again, with all tasks of its array. It does only these"
        )
    found = [read_receipt(folder, slice_, plan.identity) for slice_ in plan.slices]
    receipts = [receipt for receipt in found if receipt is not None]
    if not any(receipt.documents for receipt in receipts):
        raise DataError(
            f"{folder}: no document was found in {format_count(len(receipts), 'slice')}"
        )
    _require_none_lost(folder, plan, receipts)
    _tell_changed(receipts)
    _tell_bad(receipts)
    tell_unheld(folder, plan.identity.heldout_share, receipts)
    _sweep_all(folder, plan.slices)
    fingerprint = _write(folder, plan, receipts)
    return f"{_table(receipts)}\n\nfingerprint {fingerprint}\ndataset     {folder}"


def _write(folder: Path, plan: Plan, receipts: list[Receipt]) -> str:
    for _ in range(_FINISHERS):
        # Not found: another task finishes the same folder, and swept our temporary.
        with contextlib.suppress(FileNotFoundError):
            return write_dataset(folder, plan.identity, receipts)
    return write_dataset(folder, plan.identity, receipts)


def _tell_bad(receipts: Sequence[Receipt]) -> None:
    """Say how many records gave no document, with the first few and where all are listed."""
    count = sum(receipt.bad_records for receipt in receipts)
    if not count:
        return
    places = (
        f"{receipt.source} at {place:,}: {reason}"
        for receipt in receipts
        for place, reason in receipt.bad_places[:_BAD_SHOWN]
    )
    log.warning(
        "%s bad and left out. The first: %s. The receipts (SUBSET/NNNNN.json) list the first "
        "10,000 of each bucket under bad_places",
        "1 record is" if count == 1 else f"{count:,} records are",
        "; ".join(itertools.islice(places, _BAD_SHOWN)),
    )


def _require_none_lost(folder: Path, plan: Plan, receipts: Sequence[Receipt]) -> None:
    """Raise UserError if a bucket lacks records that are too long, and its plan wants all.

    For a time, a version left them out under any plan. The buckets of others have them.
    """
    if plan.identity.long_records == "skip":
        return
    for receipt in receipts:
        for place, reason in receipt.bad_places:
            if f"more than {LONGEST_LINE_BYTES:,}" in str(reason):
                raise UserError(
                    f"{folder / receipt.name}.json: an earlier version left out the record at "
                    f"{place:,} of {receipt.source}, which is {reason}. Split the record, remove "
                    f"{folder / receipt.name}.* and run 'mobilellama tokenize run' again. Or make "
                    "another dataset with --long_records skip"
                )


def _tell_changed(receipts: Sequence[Receipt]) -> None:
    """Warn of sources that were changed between the writing of two of their buckets."""
    times: dict[str, set[int]] = {}
    for receipt in receipts:
        if known := SourceRange.from_json(receipt.source_file):
            times.setdefault(receipt.source, set()).add(known.state.mtime_ns)
    for source in (source for source, found in times.items() if len(found) > 1):
        log.warning(
            "%s was changed between the writing of two of its buckets. Run 'mobilellama tokenize "
            "run' again: it compares the buckets with the source",
            source,
        )


def tell_unheld(folder: Path, heldout_share: float, receipts: Sequence[Receipt]) -> None:
    """Warn of subsets without held-out documents, although the share is not 0.

    Held-out documents begin at the document boundary nearest to the share. If that is the end of
    the bucket, the bucket has none.
    """
    if not heldout_share:
        return
    by_subset: dict[str, list[Receipt]] = {}
    for receipt in receipts:
        by_subset.setdefault(receipt.subset, []).append(receipt)
    for subset, mine in by_subset.items():
        if not any(r.documents for r in mine) or any(r.tokens > r.train_tokens for r in mine):
            continue
        helping = [share for r in mine if (share := _least_share(folder, r)) is not None]
        log.warning(
            "%s: nothing is held out, so that validation does not see this subset. heldout_share = "
            "%s of a bucket's tokens is less than half a document there. %s",
            subset, heldout_share,
            f"--heldout_share {min(helping):g} holds a document out. It changes the bytes of the "
            "dataset, so give another --output with it" if helping
            else "A bucket with one document never holds it out",
        )  # fmt: skip


def _least_share(folder: Path, receipt: Receipt) -> float | None:
    """Return a share, of one digit, by which a bucket's last document is held out."""
    if receipt.documents < 2:
        return None
    last = int(
        read_index(folder / f"{bucket_name(receipt.subset, receipt.bucket)}.idx").lengths[-1]
    )
    nearest = last / (2 * receipt.tokens)  # at this share both boundaries are equally near
    digit = 10.0 ** math.floor(math.log10(nearest))
    return float(f"{(math.floor(nearest / digit) + 1) * digit:.1g}")


def _sweep_all(folder: Path, slices: Sequence[Slice]) -> None:
    """Remove all temporary files: every bucket counts, so none is needed.

    A worker whose parent was killed ends by itself, but may first have to leave a slow disk's
    call. Until then its file cannot be told from one that is being written.
    """
    limit = time.monotonic() + _LAST_WRITER_S
    while sweep(folder, slices, others_after_s=0) and time.monotonic() < limit:
        time.sleep(0.05)


def sweep(folder: Path, slices: Iterable[Slice], *, others_after_s: float) -> bool:
    """Remove what killed writers left. A user may keep other files here, which stay.

    Args:
        folder: the dataset's.
        slices: whose subsets are looked through.
        others_after_s: of ``Temporary.is_abandoned``.

    Returns:
        Whether there are temporary files still, whose writers live.
    """
    has_more = False
    places = {folder: _IN_FOLDER, folder / HF_FOLDER: _IN_TOKENIZER}
    places |= {folder / slice_.subset: _IN_SUBSET for slice_ in slices}
    for place, ours in places.items():
        if place.is_dir():  # the first worker of a subset makes its folder
            left = [one for one in temporaries(place.iterdir()) if ours.fullmatch(one.final)]
            remove_abandoned(left, others_after_s=others_after_s)
            has_more |= any(one.path.exists() for one in left)
    return has_more


def _table(receipts: Sequence[Receipt]) -> str:
    counted = ("buckets", "documents", "tokens", "held out", "text", "bad", "empty", "replaced")
    rows: list[tuple[str, ...]] = [("subset", *counted)]
    subsets = sorted({receipt.subset for receipt in receipts})
    for name in [*subsets, "total"]:
        mine = [receipt for receipt in receipts if name in (receipt.subset, "total")]
        tokens = sum(receipt.tokens for receipt in mine)
        counts = (
            len(mine),
            sum(receipt.documents for receipt in mine),
            tokens,
            tokens - sum(receipt.train_tokens for receipt in mine),
            format_amount(sum(receipt.bytes_in for receipt in mine) / 1e6, "MB"),
            sum(receipt.bad_records for receipt in mine),
            sum(receipt.empty_texts for receipt in mine),
            sum(receipt.replaced_surrogates for receipt in mine),
        )
        cells = (count if isinstance(count, str) else f"{count:,}" for count in counts)
        rows.append((name, *cells))
    return aligned(rows)
