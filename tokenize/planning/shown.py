"""The forecast of a corpus as a table with notes."""

from dataclasses import dataclass

from mobilellama.progress import format_amount
from mobilellama.table import aligned, narrowed
from mobilellama.terminal import folded, result_columns
from mobilellama.tokenize.planning.outlook import Outlook

_WIDTH = 80
_SPARE = ("text/byte", "slices")
"""Columns that a narrow terminal does not show, the first one first."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What the command prints."""

    outlook: Outlook
    array: str
    remarks: list[str]


def shown(forecast: Forecast) -> str:
    """Return the table and what stands below it, as wide as the terminal, else 80 columns."""
    outlook = forecast.outlook
    rows = [["subset", "sources", "size", "slices", "text/byte", "tokens", "disk", "core hours"]]
    for name, one in outlook.subsets.items():
        size = size_text(one.size) if one.unit == "bytes" else f"{one.size:,} {one.unit}"
        counts = [name, f"{one.sources:,}", size, f"{one.slices:,}", f"{one.text_per_unit:.2f}"]
        rows.append(
            [*counts, _tokens(one.tokens), size_text(one.disk_bytes), _hours(one.core_hours)]
        )
    subsets = outlook.subsets.values()
    rows.append(
        [
            "total",
            f"{sum(one.sources for one in subsets):,}",
            size_text(sum(one.size for one in subsets if one.unit == "bytes")),
            f"{sum(one.slices for one in subsets):,}",
            "",
            _tokens(outlook.tokens),
            size_text(outlook.disk_bytes),
            _hours(outlook.core_hours),
        ]
    )
    width = result_columns() or _WIDTH
    lines = [aligned(narrowed(rows, width, spare=_SPARE)), ""]
    for label, text in _below(forecast).items():
        lines += folded(f"{label:<6}{text}", width)
    lines += [line for remark in forecast.remarks for line in folded(f"note: {remark}", width)]
    return "\n".join(lines)


def _below(forecast: Forecast) -> dict[str, str]:
    outlook = forecast.outlook
    rate = outlook.read_bytes_per_s  # of rows and of text files it is not known
    together = f". Together they read {size_text(rate)} a second" if rate else ""
    return {
        "disk": f"{size_text(outlook.needed_bytes)} while it runs: the buckets, and "
        f"{size_text(outlook.peak_bytes)} for the workers' unfinished ones",
        "hours": f"{_hours(outlook.hours)} with {outlook.task_count:,} x {outlook.workers:,} "
        f"processes, each with a core that does {outlook.mb_per_s:g} MB of text a second"
        f"{together}",
        "array": forecast.array,
    }


def size_text(size: float) -> str:
    """Return bytes with a unit that fits them."""
    return format_amount(size / 1e6, "MB")


def _hours(hours: float) -> str:
    return f"{hours:,.2f}" if hours >= 0.01 else "<0.01"


def _tokens(count: int) -> str:
    for name, unit in (("B", 1e9), ("M", 1e6)):
        if count >= unit:
            return f"{count / unit:,.2f} {name}"
    return f"{count:,}"
