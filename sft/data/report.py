"""What 'sft prepare' read, kept, changed and left out: as a table, and as report.json.

All of it comes from the buckets' receipts, so that a run that was resumed reports the same.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mobilellama.sft.data.packing import waste
from mobilellama.sft.data.reasons import MEANING, Drop, Fix, excerpt, most_first
from mobilellama.shards.dataset import Identity, Receipt
from mobilellama.table import below_remarks, counted

_SUMMED = (
    "conversations",
    "heldout_conversations",
    "rows",
    "train_rows",
    "supervised_tokens",
)
_EXAMPLES_SHOWN = 2
_NAMES_SHOWN = 12


def make_report(identity: Identity, receipts: Sequence[Receipt]) -> dict[str, Any]:
    """Return report.json's value.

    Args:
        identity: the dataset's.
        receipts: of its buckets, in their order.
    """
    sums = {name: sum(receipt.counts[name] for receipt in receipts) for name in _SUMMED}
    tokens = sum(receipt.tokens for receipt in receipts)
    seq_len = identity.rows.seq_len
    return {
        "template": identity.rows.template,
        "seq_len": seq_len,
        "records": sum(receipt.records for receipt in receipts),
        "dropped_records": sum(receipt.bad_records for receipt in receipts),
        **sums,
        "parts": sum(receipt.documents for receipt in receipts),
        "heldout_rows": sums["rows"] - sums["train_rows"],
        "tokens": tokens,
        "heldout_tokens": tokens - sum(receipt.train_tokens for receipt in receipts),
        "supervised_share": sums["supervised_tokens"] / tokens if tokens else 0.0,
        "waste_share": waste(tokens, sums["rows"], seq_len),
        "longest_conversation_tokens": max(
            receipt.counts["longest_tokens"] for receipt in receipts
        ),
        "dropped": _reasons(Drop, receipts),
        "mended": _reasons(Fix, receipts),
        "unread_fields": _unread(receipts),
        "sources": [_source(receipt) for receipt in receipts],
    }


def _reasons(kinds: type[Drop] | type[Fix], receipts: Sequence[Receipt]) -> dict[str, Any]:
    """Return the count, meaning and examples of each reason that occurred."""
    found: dict[str, Any] = {}
    for kind in kinds:
        count = sum(receipt.counts.get(kind.value, 0) for receipt in receipts)
        if count:
            examples = [
                {"place": place, "detail": detail}
                for receipt in receipts
                for place, reason, detail in receipt.bad_places
                if reason == kind.value
            ]
            found[kind.name.lower()] = {
                "count": count,
                "meaning": MEANING[kind],
                "examples": examples,
            }
    return found


def _unread(receipts: Sequence[Receipt]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for receipt in receipts:
        counts.update(receipt.unread_fields)
    return most_first(counts)


def _source(receipt: Receipt) -> dict[str, Any]:
    return {
        "source": receipt.source,
        "bucket": receipt.name,
        "records": receipt.records,
        "dropped_records": receipt.bad_records,
        "conversations": receipt.counts["conversations"],
        "rows": receipt.counts["rows"],
        "tokens": receipt.tokens,
    }


def describe(report: dict[str, Any]) -> str:
    """Return the report as text for a terminal."""
    records = report["records"]
    lines = [
        counted("records read", records, _sources(report)),
        counted("conversations kept", report["conversations"], _share(report, "conversations")),
        counted("  of them held out", report["heldout_conversations"]),
        *_lines_of(report["mended"], "changed"),
        counted("records dropped", report["dropped_records"], _share(report, "dropped_records")),
        *_lines_of(report["dropped"], "dropped"),
        *lines_of_unread(report["unread_fields"]),
        counted("parts", report["parts"], "conversations, and what long ones were split into"),
        counted("rows", report["rows"], f"of {report['seq_len']:,} tokens"),
        counted("  of them held out", report["heldout_rows"]),
        counted(
            "tokens", report["tokens"], f"{100 * report['waste_share']:.2f} % of the rows empty"
        ),
        counted("supervised tokens", report["supervised_tokens"], _supervised(report)),
        counted("longest conversation", report["longest_conversation_tokens"], "tokens"),
    ]
    return "\n".join(lines)


def _sources(report: dict[str, Any]) -> str:
    count = len(report["sources"])
    return f"in {count:,} source{'s' * (count != 1)}"


def _share(report: dict[str, Any], name: str) -> str:
    return f"{100 * report[name] / report['records']:.2f} %" if report["records"] else ""


def _supervised(report: dict[str, Any]) -> str:
    return f"{100 * report['supervised_share']:.2f} % of the tokens"


def _lines_of(reasons: dict[str, Any], verb: str) -> list[str]:
    lines = []
    for found in reasons.values():
        lines.append(counted(f"  {verb}", found["count"], found["meaning"]))
        for example in found["examples"][:_EXAMPLES_SHOWN]:
            lines.append(below_remarks(f"{example['place']}  {example['detail']}"))
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
