"""What tokenising a corpus will take: tokens, disk space, hours."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mobilellama.tokenize.planning.amounts import Amount
from mobilellama.tokenize.planning.rates import Rates

MB_PER_S = 45.0
"""MB of text that 'tokenize run' does in a second of one core after its start: measured by
benchmarks/tokenize_throughput.py on 74 MB of new text, the slower of two runs (45 and 54)."""
PLAIN_MB_PER_S = 3.0
"""The same, if sentencepiece must encode (``why_plain``)."""
JSON_MB_PER_S = 1.8
"""The same, with a tokenizer.json: Llama 3's, measured by benchmarks/json_throughput.py."""

_INDEX_BYTES = 20  # of a document in the .idx


@dataclass(frozen=True, kw_only=True)
class SubsetOutlook:
    """What a subset will take."""

    sources: int
    slices: int
    size: int
    """Of its sources, in `unit`."""
    unit: str
    tokens: int
    disk_bytes: int
    """Of its finished buckets."""
    core_hours: float
    text_per_unit: float
    """Bytes of text in a byte (or row) of its sources."""
    bytes_per_token: float
    """Bytes of text in a token."""
    basis: str
    """Where the two rates come from: "sample", "published" or "guess"."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a corpus will take."""

    subsets: dict[str, SubsetOutlook]
    workers: int
    task_count: int
    peak_bytes: int
    """Space that workers need beside the buckets: each keeps the ids of its bucket in a spool
    until they are in the bucket."""
    free_bytes: int | None
    """Of the output's file system; None if no output was given."""
    mb_per_s: float

    @property
    def tokens(self) -> int:
        """Of all subsets."""
        return sum(subset.tokens for subset in self.subsets.values())

    @property
    def disk_bytes(self) -> int:
        """Of all finished buckets."""
        return sum(subset.disk_bytes for subset in self.subsets.values())

    @property
    def needed_bytes(self) -> int:
        """Disk space while the command runs."""
        return self.disk_bytes + self.peak_bytes

    @property
    def core_hours(self) -> float:
        """Of all subsets."""
        return sum(subset.core_hours for subset in self.subsets.values())

    @property
    def read_bytes_per_s(self) -> float:
        """What all workers read together of the files, which the disk or the network must give."""
        size = sum(subset.size for subset in self.subsets.values() if subset.unit == "bytes")
        return size / (self.hours * 3600) if self.hours else 0.0

    @property
    def hours(self) -> float:
        """Time that all workers of all tasks take, if each has a core."""
        slices = sum(subset.slices for subset in self.subsets.values())
        return self.core_hours / max(1, min(self.workers * self.task_count, slices))


def look_ahead(
    amounts: Mapping[str, Amount],
    rates: Mapping[str, Rates],
    *,
    token_bytes: int,
    workers: int,
    task_count: int,
    mb_per_s: float,
    output: str | None,
) -> Outlook:
    """Return what a corpus will take.

    Args:
        amounts: of each subset.
        rates: of each subset.
        token_bytes: of an id in the dataset, 2 or 4.
        workers: processes of a task.
        task_count: tasks that run at the same time.
        mb_per_s: MB of text that a core does in a second.
        output: folder of the dataset, whose file system must have room.
    """
    subsets = {
        name: _subset(amount, rates[name], token_bytes, mb_per_s)
        for name, amount in amounts.items()
    }
    buckets = (amount.largest * rates[name].tokens for name, amount in amounts.items())
    largest = max((round(tokens * token_bytes) for tokens in buckets), default=0)
    slices = sum(amount.slices for amount in amounts.values())
    return Outlook(
        subsets=subsets,
        workers=workers,
        task_count=task_count,
        peak_bytes=largest * min(workers * task_count, slices),
        free_bytes=None if output is None else free_bytes(output),
        mb_per_s=mb_per_s,
    )


def _subset(amount: Amount, rates: Rates, token_bytes: int, mb_per_s: float) -> SubsetOutlook:
    tokens = round(amount.size * rates.tokens)
    documents = round(amount.size * rates.documents)
    return SubsetOutlook(
        sources=amount.sources,
        slices=amount.slices,
        size=amount.size,
        unit=amount.unit,
        tokens=tokens,
        disk_bytes=tokens * token_bytes + documents * _INDEX_BYTES,
        core_hours=amount.size * rates.text / (mb_per_s * 1e6) / 3600,
        text_per_unit=rates.text,
        bytes_per_token=rates.text / rates.tokens if rates.tokens else 0.0,
        basis=rates.basis,
    )


def free_bytes(output: str) -> int:
    """Return the free space of the file system in which a folder is, or will be made."""
    folder = Path(output).resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
