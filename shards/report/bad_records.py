"""What the receipts say of records that gave no document: reasons, counts, and some places.

A receipt keeps the places of a bucket's first 10,000 bad records; others are counted without a
reason. A dataset of conversations has a report.json, which says the same of its records.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mobilellama.config import DataError
from mobilellama.files.atomic import read_json
from mobilellama.shards.dataset import REPORT, Identity, Receipt, Slice, read_receipt
from mobilellama.shards.manifest import ManifestRow
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.report.source_lines import SourceLines

_EXAMPLES = 3  # of a reason in a subset
_NO_REASON = "reason not kept"


@dataclass(frozen=True, kw_only=True)
class BadExample:
    """A bad record."""

    place: str
    """The source, and the line, byte or record in it."""
    detail: str
    """The reason, with what is said of this record alone."""
    raw: str
    """Its first characters in the source; empty where they are not known."""


@dataclass(frozen=True, kw_only=True)
class BadReason:
    """Why records of a subset gave no document."""

    subset: str
    reason: str
    count: int
    examples: tuple[BadExample, ...]


def bad_records(dataset: TokenDataset, sources: str | None) -> list[BadReason]:
    """Return the reasons by subset, the most frequent first.

    Args:
        dataset: with its receipts.
        sources: the corpus, to show what stands at the places; None: places alone.

    Raises:
        ConfigError: there is no such corpus, or it is another one.
        DataError: a receipt is missing or damaged.
    """
    lines = None if sources is None else SourceLines(sources)
    if dataset.identity.packing is not None:
        return _of_conversations(dataset.folder / REPORT, dataset.subsets)
    found: dict[tuple[str, str], int] = {}
    examples: dict[tuple[str, str], list[BadExample]] = {}
    for row in dataset.manifest:
        if not row["bad_records"]:
            continue
        receipt = _receipt(dataset.folder, row, dataset.identity)
        for place, detail in _places(receipt):
            key = (row["subset"], _reason_of(receipt, detail))
            found[key] = found.get(key, 0) + 1
            if len(examples.setdefault(key, [])) < _EXAMPLES:
                examples[key].append(_example(receipt, place, detail, lines))
        if others := receipt.bad_records - len(receipt.bad_places):
            key = (row["subset"], _NO_REASON)
            found[key] = found.get(key, 0) + others
    if lines is not None:
        lines.require_found()
    reasons = [
        BadReason(subset=key[0], reason=key[1], count=n, examples=tuple(examples.get(key, [])))
        for key, n in found.items()
    ]
    return sorted(reasons, key=lambda one: (one.subset, -one.count, one.reason))


def _receipt(folder: Path, row: ManifestRow, identity: Identity) -> Receipt:
    slice_ = Slice(
        subset=row["subset"], bucket=row["bucket"], source=row["source"], size=row["end"],
        start=row["start"], end=row["end"], unit=row["unit"],
    )  # fmt: skip
    receipt = read_receipt(folder, slice_, identity)
    if receipt is None:
        raise DataError(
            f"{folder / slice_.name}.json: missing, but it says which records were bad. Run "
            f"'mobilellama shards verify {folder}', which says what to do"
        )
    return receipt


def _places(receipt: Receipt) -> Iterable[tuple[int, str]]:
    for place, detail in receipt.bad_places:
        yield int(place), str(detail)


def _reason_of(receipt: Receipt, detail: str) -> str:
    """Return what many records have in common, so that a page has few reasons."""
    if receipt.unit == "files":  # its path comes first
        detail = detail.rpartition(": ")[2]
    return detail.partition(" (")[0]


def _example(receipt: Receipt, place: int, detail: str, lines: SourceLines | None) -> BadExample:
    if lines is None:
        where = SourceLines.where(receipt, place, None)
        return BadExample(place=where, detail=detail, raw="")
    number, raw = lines.read(receipt, place)
    return BadExample(place=SourceLines.where(receipt, place, number), detail=detail, raw=raw)


def _of_conversations(path: Path, subsets: tuple[str, ...]) -> list[BadReason]:
    """Return the reasons that report.json has, for all subsets together."""
    try:
        dropped = read_json(path)["dropped"]
        reasons = [
            BadReason(
                subset=", ".join(subsets),
                reason=f"{name}: {one['meaning']}",
                count=int(one["count"]),
                examples=tuple(
                    BadExample(place=str(example["place"]), detail=str(example["detail"]), raw="")
                    for example in one["examples"][:_EXAMPLES]
                ),
            )
            for name, one in dropped.items()
        ]
    except FileNotFoundError:
        return []  # datasets of older versions have none
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{path}: not the report of 'sft prepare'. Restore it from a copy, or prepare again"
        ) from None
    return sorted(reasons, key=lambda one: -one.count)
