"""A dataset folder's plan, among several makers: join it, or begin anew where nothing is lost."""

import fcntl
import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobilellama.config import ConfigError
from mobilellama.files.atomic import lock
from mobilellama.sft.data.bucket import READING
from mobilellama.shards.dataset import DATASET, PLAN, Plan, Slice, read_receipt
from mobilellama.tokenize.bucket_files import is_finished
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

log = logging.getLogger(__name__)


@contextmanager
def sharing(folder: Path) -> Iterator[int]:
    """Make the folder, and hold a lock on it as one of its makers; yield the lock's descriptor.

    Many may make one dataset, for they write the same bytes; a plan is replaced by one alone.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError("output", str(folder), "is not a folder", "Give a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not is_alone(descriptor):
            log.warning(
                "another process is making %s at the same time: both write the same bytes, and "
                "this one takes over what that one finishes",
                folder,
            )
        yield descriptor
    finally:
        os.close(descriptor)


def is_alone(descriptor: int) -> bool:
    """Return whether nobody else makes the folder now; the lock is shared afterwards."""
    alone = lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock(descriptor, fcntl.LOCK_SH)
    return alone


def join_plan(folder: Path, plan: Plan, tokenizer: TextTokenizer, descriptor: int) -> None:
    """Write the plan, or check that the folder was begun with this one.

    Where nothing is finished that belongs to another plan, this one takes its place. `descriptor`
    is what ``sharing`` gave.

    Raises:
        ConfigError: the folder is another's, is being written, or has finished buckets.
    """
    if not (folder / PLAN).exists():
        strangers = [name for name in sorted(os.listdir(folder)) if not name.startswith(PLAN)]
        if strangers:
            rule = f"holds files ({strangers[0]}, ...) but no {PLAN}"
            raise ConfigError("output", str(folder), rule, "Give a new or empty folder")
        plan.write(folder)
    theirs = Plan.read(folder)
    try:
        _require_same(theirs, plan, tokenizer, owner=f"the plan in {folder}")
    except ConfigError as error:
        if theirs.identity.packing is None:
            raise  # a dataset of 'tokenize run', finished or not
        alone = lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finished = _finished(folder, theirs)
        field, value, rule, remedy = error.args
        if finished:
            done = f"{finished:,} of its {len(theirs.slices):,} buckets are finished"
            remedy += f", or remove {folder} ({done})"
        elif not alone:
            remedy += "; another process is making that dataset now"
        else:
            log.info("%s has no finished bucket: its plan is made again", folder)
            _replace(folder, theirs, plan)
            lock(descriptor, fcntl.LOCK_SH)
            return
        raise ConfigError(field, value, rule, remedy) from None


def require_same_reading(folder: Path, plan: Plan, version: int) -> None:
    """Refuse to add buckets to others whose records were read by other rules.

    A dataset that is finished is left as it is: that it was made by other rules is logged.

    Raises:
        ConfigError: some buckets are finished by other rules, and some are not.
    """
    finished = [slice_ for slice_ in plan.slices if is_finished(folder, slice_, plan.identity)]
    receipts = [read_receipt(folder, slice_, plan.identity) for slice_ in finished]
    versions = {receipt.counts.get(READING, 1) for receipt in receipts if receipt is not None}
    if not versions - {version}:
        return
    others = " and ".join(str(other) for other in sorted(versions - {version}))
    if len(finished) == len(plan.slices):
        log.warning(
            "%s was made by version %s of the rules for reading records; the version is %d now. "
            "To have the new rules judge all fields, prepare into another folder",
            folder, others, version,
        )  # fmt: skip
        return
    done = f"{len(finished):,} of its {len(plan.slices):,} buckets"
    rule = f"has {done} by version {others} of the rules for reading records"
    remedy = f"The version is {version} now: use another output folder, or remove {folder}"
    raise ConfigError("output", str(folder), rule, remedy)


def _require_same(theirs: Plan, plan: Plan, tokenizer: TextTokenizer, *, owner: str) -> None:
    """Raise ConfigError, which names the difference, unless the two plans are the same."""
    tokenizer.require_sha256(theirs.identity.tokenizer_sha256, field="tokenizer", owner=owner)
    for planned, found in itertools.zip_longest(theirs.slices, plan.slices):
        if planned != found:
            raise ConfigError(
                "data.path",
                found.source if found else planned.source,
                f"differs from {owner}, which has {_shown(planned)}; now there is {_shown(found)}",
                "Restore the data as it was, or use another output folder",
            )
    had = (theirs.identity.packing and theirs.identity.packing.sources_sha256) or {}
    for source, sha256 in (plan.identity.rows.sources_sha256 or {}).items():
        if source in had and had[source] != sha256:
            raise ConfigError(
                "data.path",
                source,
                f"has other content of the same size since {owner} was made: sha256 "
                f"{sha256[:12]}, which was {had[source][:12]}",
                "Restore the data as it was, or use another output folder",
            )
    theirs.identity.require_same(plan.identity, owner=owner)


def _finished(folder: Path, plan: Plan) -> int:
    """Return how many buckets would be lost with the plan.

    Those of data that gave no conversation at all are not worth keeping.
    """
    receipts = [read_receipt(folder, slice_, plan.identity) for slice_ in plan.slices]
    there = [receipt for receipt in receipts if receipt is not None]
    return len(there) if any(receipt.documents for receipt in there) else 0


def _replace(folder: Path, theirs: Plan, plan: Plan) -> None:
    """Take away what was made after a plan, then write the other."""
    (folder / DATASET).unlink(missing_ok=True)
    for slice_ in theirs.slices:
        for ending in ("json", "bin", "mask", "idx"):  # the receipt first: it makes them count
            (folder / f"{slice_.name}.{ending}").unlink(missing_ok=True)
    plan.write(folder)


def _shown(slice_: Slice | None) -> str:
    return f"{slice_.source} of {slice_.size:,} {slice_.unit}" if slice_ else "nothing"
