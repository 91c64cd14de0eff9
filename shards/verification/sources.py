"""Compare the sources of a dataset with the hashes of what was read of them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import sha256_of_range
from mobilellama.progress import Progress
from mobilellama.shards.dataset import PLAN, Identity, Plan, Slice, read_receipt
from mobilellama.shards.source_file import SourceRange, locate


@dataclass(frozen=True, kw_only=True)
class CheckedSources:
    """What was compared."""

    buckets: int
    bytes: int
    unknown: int
    """Buckets whose receipts do not say what they were made of, or that were made of tables."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A range of a file that a bucket was made of."""

    slice_: Slice
    path: Path
    start: int
    end: int
    sha256: str

    def hashed(self) -> str | None:
        """Return the range's sha256 now; None where it cannot be read."""
        try:
            if (self.start, self.end) == (0, self.slice_.size):
                return sha256_of_range(self.path)
            return sha256_of_range(self.path, self.start, self.end)
        except OSError:
            return None


def verify_sources(folder: Path, identity: Identity, given: str, *, workers: int) -> CheckedSources:
    """Compare the sources below a folder with what the buckets were made of.

    Args:
        folder: the dataset's.
        identity: the dataset's.
        given: the corpus, as it was given when the dataset was made.
        workers: files read at the same time.

    Raises:
        ConfigError: there is no such folder or file, or it has none of the sources.
        DataError: a source is missing or differs; the message names the first.
    """
    root = Path(given)
    if not root.exists():
        rule = "is neither a folder nor a file"
        raise ConfigError("sources", given, rule, "Give the corpus that the dataset was made of")
    try:
        plan = Plan.read(folder)
    except FileNotFoundError:
        raise DataError(f"{folder / PLAN}: missing, but it is needed to find the sources") from None
    parts = list(_parts(folder, identity, plan, root))
    total = sum(part.end - part.start for part in parts)
    with Progress("verify the sources", total=total / 1e6, unit="MB") as progress:
        with ThreadPoolExecutor(workers) as pool:
            bad = []
            for part, sha256 in zip(parts, pool.map(_Part.hashed, parts), strict=True):
                progress.advance((part.end - part.start) / 1e6)
                if sha256 != part.sha256:
                    bad.append((part, "cannot be read" if sha256 is None else "was changed"))
    if bad:
        part, fault = bad[0]
        others = f" (and {len(bad) - 1:,} more bad)" if len(bad) > 1 else ""
        if not any(part.path.exists() for part in parts):
            rule = f"holds none of the files that the dataset was made of, such as {part.path}"
            raise ConfigError("sources", given, rule, "Give the corpus that it was made of")
        raise DataError(
            f"{part.path}: bytes {part.start:,} to {part.end:,}, of which bucket "
            f"{part.slice_.name} was made: {fault}{others}. Restore it, or make "
            "another dataset"
        )
    return CheckedSources(buckets=len(parts), bytes=total, unknown=len(plan.slices) - len(parts))


def _parts(folder: Path, identity: Identity, plan: Plan, root: Path) -> Iterator[_Part]:
    hashes = (identity.packing and identity.packing.sources_sha256) or {}
    for slice_ in plan.slices:
        if slice_.unit != "bytes":
            continue
        path = root if root.is_file() else locate(slice_, root)[0]
        if sha256 := hashes.get(slice_.source):
            yield _Part(slice_=slice_, path=path, start=0, end=slice_.size, sha256=sha256)
            continue
        receipt = read_receipt(folder, slice_, identity)
        if receipt and (known := SourceRange.from_json(receipt.source_file)):
            start, end, sha256 = known.start, known.end, known.sha256
            yield _Part(slice_=slice_, path=path, start=start, end=end, sha256=sha256)
