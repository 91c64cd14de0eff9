from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.shards.dataset import (
    Plan,
    Slice,
    fingerprint,
    fingerprint_of_rows,
    read_receipt,
    write_dataset,
)
from mobilellama.shards.reader import TokenDataset
from tests.shards.conftest import IDENTITY, receipt

SLICE = Slice(subset="c4", bucket=0, source="c4/0.jsonl", size=100, start=0, end=100)


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


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = Plan(identity=IDENTITY, slices=(SLICE,))
    plan.write(tmp_path)
    assert Plan.read(tmp_path) == plan


def test_another_identity_is_refused_by_the_field_that_differs() -> None:
    with pytest.raises(ConfigError) as caught:
        IDENTITY.require_same(replace(IDENTITY, heldout_share=0.1), owner="the plan")
    assert str(caught.value) == (
        "heldout_share = 0.1: the plan was begun with heldout_share = 0.0. "
        "Use the same value, or another output folder."
    )


def test_a_receipt_counts_only_for_its_own_plan_and_slice(tmp_path: Path) -> None:
    (tmp_path / "c4").mkdir()
    assert read_receipt(tmp_path, SLICE, IDENTITY) is None
    mine = replace(receipt("c4", 0, [3]), identity_sha256=IDENTITY.sha256)
    mine.write(tmp_path)
    assert read_receipt(tmp_path, SLICE, IDENTITY) == mine
    for slice_, identity in (
        (SLICE, replace(IDENTITY, seed=2)),
        (replace(SLICE, end=99), IDENTITY),
        (replace(SLICE, unit="rows"), IDENTITY),
    ):
        with pytest.raises(DataError, match=r"Remove .*c4/00000\.\* and run again"):
            read_receipt(tmp_path, slice_, identity)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff"])
def test_a_broken_receipt_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c4").mkdir()
    (tmp_path / "c4/00000.json").write_bytes(content)
    with pytest.raises(DataError, match=r"c4/00000\.json: not a receipt\. Remove"):
        read_receipt(tmp_path, SLICE, IDENTITY)
