from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from mobilellama.shards.manifest import fingerprint, fingerprint_of_rows, write_dataset
from mobilellama.shards.reader import TokenDataset
from tests.shards.conftest import IDENTITY, receipt


def test_manifest_and_fingerprint_do_not_depend_on_the_order_of_the_receipts(
    tmp_path: Path,
) -> None:
    receipts = [receipt("c4", 1, [5]), receipt("book", 0, [4, 4]), receipt("c4", 0, [3])]
    name = write_dataset(tmp_path, IDENTITY, receipts)
    first = (tmp_path / "manifest.parquet").read_bytes()
    assert write_dataset(tmp_path, IDENTITY, receipts[::-1]) == name
    assert (tmp_path / "manifest.parquet").read_bytes() == first
    rows = pq.read_table(tmp_path / "manifest.parquet").to_pylist()
    assert [(row["subset"], row["bucket"]) for row in rows] == [("book", 0), ("c4", 0), ("c4", 1)]
    assert fingerprint_of_rows(IDENTITY, rows) == name


def test_the_fingerprint_names_hashes_and_identity_and_no_paths() -> None:
    one = receipt("c4", 0, [3])
    name = fingerprint(IDENTITY, [one])
    assert fingerprint(IDENTITY, [replace(one, source="elsewhere.jsonl")]) == name
    other = replace(one, sha256=one.sha256 | {"bin": "c" * 64})
    assert fingerprint(IDENTITY, [other]) != name
    assert fingerprint(replace(IDENTITY, seed=2), [one]) != name
    assert fingerprint(IDENTITY, [replace(one, bucket=1)]) != name


def test_totals_are_the_sums_of_the_receipts(tmp_path: Path) -> None:
    write_dataset(tmp_path, IDENTITY, [receipt("c4", 0, [5, 6], heldout=1), receipt("c4", 1, [7])])
    totals = TokenDataset(tmp_path).totals["c4"]
    assert (totals["buckets"], totals["documents"]) == (2, 3)
    assert (totals["tokens"], totals["train_tokens"]) == (18, 12)
