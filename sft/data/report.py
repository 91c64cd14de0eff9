"""What 'sft prepare' read, kept, changed and left out: as a table, and as report.json.

All of it comes from the buckets' receipts, so that a run that was resumed reports the same.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mobilellama.sft.data.packing import waste
from mobilellama.sft.data.reasons import MEANING, Drop, Fix, excerpt, most_first
from mobilellama.shards.dataset import Identity, Receipt
from mobilellama.table import below_remarks, counted

_EXAMPLES_SHOWN = 2
_NAMES_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class ReasonExample:
    """A record that was dropped or changed."""

    place: str
    """Where it was found."""
    detail: str


@dataclass(frozen=True, kw_only=True)
class ReasonReport:
    """The records of one reason."""

    count: int
    meaning: str
    examples: list[ReasonExample]


@dataclass(frozen=True, kw_only=True)
class SourceReport:
    """What one source gave."""

    source: str
    bucket: str
    records: int
    dropped_records: int
    conversations: int
    rows: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class PreparedReport:
    """report.json, field by field."""

    template: str | None
    """Its name."""
    seq_len: int
    records: int
    dropped_records: int
    conversations: int
    heldout_conversations: int
    rows: int
    train_rows: int
    supervised_tokens: int
    parts: int
    """Conversations, and what long ones were split into."""
    heldout_rows: int
    tokens: int
    heldout_tokens: int
    supervised_share: float
    """Of the tokens."""
    waste_share: float
    """Of the rows' places: those that no token fills."""
    longest_conversation_tokens: int
    dropped: dict[str, ReasonReport]
    """By reason; only those that occurred."""
    mended: dict[str, ReasonReport]
    unread_fields: dict[str, int]
    """Kept records, by the name of a field that was not read."""
    sources: list[SourceReport]


def make_report(identity: Identity, receipts: Sequence[Receipt]) -> PreparedReport:
    """Return report.json's content.

    Args:
        identity: the dataset's.
        receipts: of its buckets, in their order.
    """
    tokens = sum(receipt.tokens for receipt in receipts)
    rows, train_rows = _sum(receipts, "rows"), _sum(receipts, "train_rows")
    supervised_tokens = _sum(receipts, "supervised_tokens")
    seq_len = identity.rows.seq_len
    return PreparedReport(
        template=identity.rows.template,
        seq_len=seq_len,
        records=sum(receipt.records for receipt in receipts),
        dropped_records=sum(receipt.bad_records for receipt in receipts),
        conversations=_sum(receipts, "conversations"),
        heldout_conversations=_sum(receipts, "heldout_conversations"),
        rows=rows,
        train_rows=train_rows,
        supervised_tokens=supervised_tokens,
        parts=sum(receipt.documents for receipt in receipts),
        heldout_rows=rows - train_rows,
        tokens=tokens,
        heldout_tokens=tokens - sum(receipt.train_tokens for receipt in receipts),
        supervised_share=supervised_tokens / tokens if tokens else 0.0,
        waste_share=waste(tokens, rows, seq_len),
        longest_conversation_tokens=max(receipt.counts["longest_tokens"] for receipt in receipts),
        dropped=_reasons(Drop, receipts),
        mended=_reasons(Fix, receipts),
        unread_fields=_unread(receipts),
        sources=[_source(receipt) for receipt in receipts],
    )


def _sum(receipts: Sequence[Receipt], name: str) -> int:
    return sum(receipt.counts[name] for receipt in receipts)


def _reasons(kinds: type[Drop] | type[Fix], receipts: Sequence[Receipt]) -> dict[str, ReasonReport]:
    """Return the count, meaning and examples of each reason that occurred."""
    found: dict[str, ReasonReport] = {}
    for kind in kinds:
        count = sum(receipt.counts.get(kind.value, 0) for receipt in receipts)
        if count:
            examples = [
                ReasonExample(place=str(place), detail=str(detail))
                for receipt in receipts
                for place, reason, detail in receipt.bad_places
                if reason == kind.value
            ]
            reason = ReasonReport(count=count, meaning=MEANING[kind], examples=examples)
            found[kind.name.lower()] = reason
    return found


def _unread(receipts: Sequence[Receipt]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for receipt in receipts:
        counts.update(receipt.unread_fields)
    return most_first(counts)


def _source(receipt: Receipt) -> SourceReport:
    return SourceReport(
        source=receipt.source,
        bucket=receipt.name,
        records=receipt.records,
        dropped_records=receipt.bad_records,
        conversations=receipt.counts["conversations"],
        rows=receipt.counts["rows"],
        tokens=receipt.tokens,
    )


def describe(report: PreparedReport) -> str:
    """Return the report as text for a terminal."""
    empty = f"{100 * report.waste_share:.2f} % of the rows empty"
    supervised = f"{100 * report.supervised_share:.2f} % of the tokens"
    lines = [
        counted("records read", report.records, _sources(report)),
        counted("conversations kept", report.conversations, _share(report, report.conversations)),
        counted("  of them held out", report.heldout_conversations),
        *_lines_of(report.mended, "changed"),
        counted("records dropped", report.dropped_records, _share(report, report.dropped_records)),
        *_lines_of(report.dropped, "dropped"),
        *lines_of_unread(report.unread_fields),
        counted("parts", report.parts, "conversations, and what long ones were split into"),
        counted("rows", report.rows, f"of {report.seq_len:,} tokens"),
        counted("  of them held out", report.heldout_rows),
        counted("tokens", report.tokens, empty),
        counted("supervised tokens", report.supervised_tokens, supervised),
        counted("longest conversation", report.longest_conversation_tokens, "tokens"),
    ]
    return "\n".join(lines)


def _sources(report: PreparedReport) -> str:
    count = len(report.sources)
    return f"in {count:,} source{'s' * (count != 1)}"


def _share(report: PreparedReport, part: int) -> str:
    return f"{100 * part / report.records:.2f} %" if report.records else ""


def _lines_of(reasons: dict[str, ReasonReport], verb: str) -> list[str]:
    lines = []
    for found in reasons.values():
        lines.append(counted(f"  {verb}", found.count, found.meaning))
        for example in found.examples[:_EXAMPLES_SHOWN]:
            lines.append(below_remarks(f"{example.place}  {example.detail}"))
    return lines


def lines_of_unread(fields: Mapping[str, int]) -> list[str]:
    """Return lines on the fields that no rule knows, with how many kept records have each."""
    if not fields:
        return []
    shown = [(excerpt(name), count) for name, count in fields.items()][:_NAMES_SHOWN]
    lines = [counted("fields not read", len(fields), "by name, with the records that have them")]
    lines += [counted("  not read", count, name) for name, count in shown]
    if more := len(fields) - len(shown):
        lines.append(below_remarks(f"and {more:,} more, see unread_fields in the report"))
    return lines
