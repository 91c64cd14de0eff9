"""How much of each subset there is: its files, bytes and slices, found or expected."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mobilellama.progress import format_amount, format_count
from mobilellama.shards.dataset import Slice
from mobilellama.tokenize.planning.published import published_size
from mobilellama.tokenize.sources.config import is_packed


@dataclass(frozen=True, kw_only=True)
class Amount:
    """What a subset holds."""

    sources: int
    """Files, or tables."""
    slices: int
    size: int
    """Of all sources, in `unit`."""
    largest: int
    """Size of the largest slice."""
    unit: str = "bytes"
    """"bytes", "rows" or "files"."""

    @property
    def size_text(self) -> str:
        """The size with its unit."""
        if self.unit != "bytes":
            return format_count(self.size, self.unit[:-1])
        return format_amount(self.size / 1e6, "MB")

    def line(self, subset: str) -> str:
        """Return the subset's line in what 'tokenize run --dry_run' prints."""
        sources, slices = format_count(self.sources, "source"), format_count(self.slices, "slice")
        return f"{subset}: {sources}, {slices}, {self.size_text}"


def amounts_found(slices: Iterable[Slice]) -> dict[str, Amount]:
    """Return the amount of each subset of a corpus that was cut into slices."""
    by_subset: dict[str, list[Slice]] = {}
    for slice_ in slices:
        by_subset.setdefault(slice_.subset, []).append(slice_)
    return {
        subset: Amount(
            sources=len({slice_.source for slice_ in mine}),
            slices=len(mine),
            size=sum(slice_.end - slice_.start for slice_ in mine),
            largest=max(slice_.end - slice_.start for slice_ in mine),
            unit=mine[0].unit,
        )
        for subset, mine in sorted(by_subset.items())
    }


def amounts_listed(paths: Sequence[str], slice_bytes: int) -> Mapping[str, Amount]:
    """Return the expected amount of each subset of a list of RedPajama's files.

    A list has no sizes: each file counts as the mean of the published ones in its folder.
    """
    by_subset: dict[str, list[str]] = {}
    for path in paths:
        by_subset.setdefault(path.split("/")[0], []).append(path)
    return {subset: _amount_of(mine, slice_bytes) for subset, mine in sorted(by_subset.items())}


def _amount_of(paths: Sequence[str], slice_bytes: int) -> Amount:
    sizes = [round(published_size(path)) for path in paths]
    steps = [
        size if is_packed(path) else slice_bytes for path, size in zip(paths, sizes, strict=True)
    ]
    return Amount(
        sources=len(paths),
        slices=sum(-(-size // step) for size, step in zip(sizes, steps, strict=True)),
        size=sum(sizes),
        largest=max(map(min, sizes, steps)),
    )
