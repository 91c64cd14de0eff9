"""Say which files and buckets are bad, and what to do about them."""

import logging
from collections.abc import Sequence
from typing import NoReturn

from mobilellama.config import DataError
from mobilellama.shards.dataset import maker
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.verification.checked_files import Fault, bucket_names

log = logging.getLogger(__name__)

_BUCKETS_SHOWN = 20


def refuse(dataset: TokenDataset, faults: list[Fault], *, redo: bool) -> NoReturn:
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
        shown = shown_buckets(bad)
        if redo:
            for name in bad:
                (dataset.folder / f"{name}.json").unlink(missing_ok=True)
            done = f"Bad buckets: {shown}. Their receipts are removed. Run {again}"
        else:
            verify = f"'mobilellama shards verify {dataset.folder} --redo true'"
            done = f"Bad buckets: {shown}. Run {verify}, then {again}"
        remedies.insert(0, done)
    file, fault = faults[0]
    others = f" (and {len(faults) - 1:,} more bad)" if len(faults) > 1 else ""
    raise DataError(f"{file.path}: {fault}{others}. {'. '.join(remedies)}")


def shown_buckets(names: Sequence[str]) -> str:
    """Return the first of the names, and how many more there are."""
    more = f" and {len(names) - _BUCKETS_SHOWN:,} more" * (len(names) > _BUCKETS_SHOWN)
    return ", ".join(names[:_BUCKETS_SHOWN]) + more
