"""The manifest and dataset.json, which are written from the receipts, and the fingerprint.

A dataset's fingerprint is the sha256 of its identity and of its buckets' hashes.
"""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Literal, TypedDict, cast, get_args

from mobilellama.files.atomic import sha256_of_file, sha256_of_json, whole_file
from mobilellama.files.sealed import write_sealed_json
from mobilellama.shards.dataset import (
    DATASET,
    MANIFEST,
    PLAN,
    REPORT,
    TEMPLATE,
    TOKENIZER,
    Identity,
    Receipt,
    maker,
)
from mobilellama.shards.manifest_table import table_of
from mobilellama.tokenizers.text_tokenizer import HF_FOLDER

_HASH_SUFFIX = "_sha256"
_Count = Literal[
    "documents",
    "tokens",
    "train_tokens",
    "bytes_in",
    "records",
    "bad_records",
    "empty_texts",
    "replaced_surrogates",
]
_COUNTED: tuple[_Count, ...] = get_args(_Count)


class ManifestRow(TypedDict):
    """A bucket's row in the manifest; columns of hashes and of other counts stand beside these."""

    subset: str
    bucket: int
    source: str
    start: int
    end: int
    unit: str
    documents: int
    tokens: int
    train_tokens: int
    bytes_in: int
    records: int
    bad_records: int
    empty_texts: int
    replaced_surrogates: int


class PackedManifestRow(ManifestRow):
    """The row of a bucket of packed rows."""

    rows: int
    train_rows: int


def fingerprint(identity: Identity, receipts: Iterable[Receipt]) -> str:
    """Return the sha256 that names the dataset's content: no paths, no worker counts."""
    return _fingerprint(identity, ((r.subset, r.bucket, r.sha256) for r in receipts))


def fingerprint_of_rows(identity: Identity, rows: Iterable[ManifestRow]) -> str:
    """Return the same sha256 from the manifest's rows."""
    return _fingerprint(identity, ((r["subset"], r["bucket"], row_hashes(r)) for r in rows))


def _fingerprint(identity: Identity, buckets: Iterable[tuple[str, int, dict[str, str]]]) -> str:
    hashed = sorted((subset, bucket, sorted(files.items())) for subset, bucket, files in buckets)
    return sha256_of_json({"identity": identity.to_json(), "buckets": hashed})


def row_hashes(row: ManifestRow) -> dict[str, str]:
    """Return the sha256 of each of a bucket's files, by its ending, from its manifest row."""
    return {
        column.removesuffix(_HASH_SUFFIX): value
        for column, value in row.items()
        if column.endswith(_HASH_SUFFIX) and isinstance(value, str)
    }


def rebuild_manifest(folder: Path) -> str:
    """Return what to do about a bad manifest.parquet or dataset.json."""
    if maker(folder) == "sft prepare":
        return f"Remove {folder / DATASET} and run the same 'mobilellama sft prepare' again"
    return f"Run 'mobilellama tokenize finish --output {folder}': it writes both from the receipts"


def write_dataset(folder: Path, identity: Identity, receipts: Iterable[Receipt]) -> str:
    """Write manifest.parquet and, last, dataset.json; return the fingerprint.

    The rows stand in order of subset, then bucket, whatever the order of the receipts: samples
    are numbered in this order.
    """
    import pyarrow.parquet as pq

    receipts = sorted(receipts, key=lambda receipt: (receipt.subset, receipt.bucket))
    rows = []
    for receipt in receipts:
        row = asdict(receipt)
        hashes, counts = row.pop("sha256"), row.pop("counts")
        del row["bad_places"], row["identity_sha256"], row["source_file"], row["unread_fields"]
        row |= {f"{ending}{_HASH_SUFFIX}": value for ending, value in hashes.items()}
        rows.append(row | counts)
    with whole_file(folder / MANIFEST) as file:
        pq.write_table(table_of(rows), file)
    name = fingerprint(identity, receipts)
    write_sealed_json(
        folder / DATASET,
        {
            "fingerprint": name,
            "identity": identity.to_json(),
            "manifest_sha256": sha256_of_file(folder / MANIFEST),
            "files": _digests(folder, receipts),
            "subsets": totals_of_rows(cast(list[ManifestRow], rows)),
        },
    )
    return name


def _digests(folder: Path, receipts: Iterable[Receipt]) -> dict[str, str]:
    """Return the sha256 of the files for which only dataset.json vouches, by relative path."""
    names = [PLAN, TEMPLATE, REPORT, TOKENIZER]
    names += sorted(f"{HF_FOLDER}/{path.name}" for path in (folder / HF_FOLDER).glob("*"))
    names += [f"{receipt.name}.json" for receipt in receipts]
    return {name: sha256_of_file(folder / name) for name in names if (folder / name).is_file()}


def totals_of_rows(rows: Iterable[ManifestRow]) -> dict[str, dict[str, int]]:
    """Return the sums of the rows' counts, by subset."""
    totals: dict[str, dict[str, int]] = {}
    for row in rows:
        total = totals.setdefault(row["subset"], {"buckets": 0} | dict.fromkeys(_COUNTED, 0))
        total["buckets"] += 1
        for name in _COUNTED:
            total[name] += row[name]
    return totals
