"""Find a document by its number in a bucket, or by its line in a source file.

A line gives a record, and a record may give no document: it is bad, or its text is empty. The
manifest says how many records and documents each bucket has. If all records of a bucket gave one,
the line tells the document by arithmetic. Otherwise the source is read up to the line.
"""

from dataclasses import dataclass

from mobilellama.config import ConfigError, DataError, did_you_mean
from mobilellama.progress import format_count
from mobilellama.shards.audit.records import read_records
from mobilellama.shards.dataset import PLAN, Plan, Slice, bucket_name
from mobilellama.shards.manifest import ManifestRow
from mobilellama.shards.permute import Permutation
from mobilellama.shards.reader import TokenDataset

_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class DocumentPlace:
    """Where a document is."""

    bucket: str
    """``SUBSET/NNNNN``."""
    document: int
    """Its number in the bucket."""


def place_in_bucket(dataset: TokenDataset, bucket: str, document: int) -> DocumentPlace:
    """Check that a bucket has a document of a number.

    Raises:
        ConfigError: there is no such bucket, or it has no such document.
    """
    names = [bucket_name(row["subset"], row["bucket"]) for row in dataset.manifest]
    if bucket not in names:
        rule = f"is none of {format_count(len(names), 'bucket')}, such as {_few(names)}"
        remedy = f"Give SUBSET/NNNNN{did_you_mean(bucket, names)}"
        raise ConfigError("bucket", bucket, rule, remedy)
    count = dataset.row(bucket)["documents"]
    if document >= count:
        rule = f"bucket {bucket} has {format_count(count, 'document')}"
        remedy = f"Give 0 to {count - 1}" if count else "Give another bucket"
        raise ConfigError("document", document, rule, remedy)
    return DocumentPlace(bucket=bucket, document=document)


def place_of_line(
    dataset: TokenDataset, file: str, line: int, sources: str | None
) -> DocumentPlace:
    """Find the document that a line of a source file gave.

    Args:
        dataset: made by 'tokenize run'.
        file: the source, as the manifest names it.
        line: number of the line, or of the record of a table, from 1.
        sources: the corpus. It is needed where some records gave no document.

    Raises:
        ConfigError: there is no such source or line, the line gave no document, or the corpus is
            needed.
    """
    if dataset.identity.packing is not None:
        rule = "is not possible in a dataset of conversations, which are not in the source's order"
        raise ConfigError("line", line, rule, "Give --bucket and --document")
    known = list(dict.fromkeys(row["source"] for row in dataset.manifest))
    rows = [row for row in dataset.manifest if row["source"] == file]
    if not rows:
        rule = f"is no source of this dataset. Its sources are such as {_few(known)}"
        raise ConfigError("file", file, rule, f"Give one{did_you_mean(file, known)}")
    left = line - 1
    for row in rows:
        if left < row["records"]:
            number = _number(dataset, row, left, line, sources)
            key = (dataset.identity.seed, row["subset"], row["bucket"])
            document = Permutation(row["documents"], *key).inverse(number)
            name = bucket_name(row["subset"], row["bucket"])
            return DocumentPlace(bucket=name, document=int(document))
        left -= row["records"]
    count = sum(row["records"] for row in rows)
    rule = f"{file} has {format_count(count, 'line')}"
    raise ConfigError("line", line, rule, f"Give 1 to {count}")


def _number(
    dataset: TokenDataset, row: ManifestRow, record: int, line: int, sources: str | None
) -> int:
    """Return the number of a record's document among the documents of its bucket's source."""
    lacking = row["records"] - row["documents"]
    if not lacking:
        return record
    if sources is None:
        rule = f"{format_count(lacking, 'line')} of this part of the file gave no document"
        remedy = "To tell which, give --sources with the corpus that the dataset was made of"
        raise ConfigError("line", line, rule, remedy)
    number = 0
    for i, found in enumerate(read_records(_slice_of(dataset, row), sources)):
        if i == record and found.skipped:
            rule = f"this line gave no document ({found.skipped})"
            raise ConfigError("line", line, rule, "Give another line")
        if i == record:
            return number
        number += not found.skipped
    raise DataError(
        f"{row['source']}: has fewer lines than when the dataset was made. Run 'mobilellama shards "
        "verify' with --sources"
    )


def _slice_of(dataset: TokenDataset, row: ManifestRow) -> Slice:
    try:
        plan = Plan.read(dataset.folder)
    except FileNotFoundError:
        path = dataset.folder / PLAN
        raise DataError(f"{path}: missing, but it is needed to read the source") from None
    name = bucket_name(row["subset"], row["bucket"])
    return next(slice_ for slice_ in plan.slices if slice_.name == name)


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)
