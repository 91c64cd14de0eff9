from dataclasses import replace
from pathlib import Path

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.shards.dataset import Plan, Slice, read_receipt
from tests.shards.conftest import IDENTITY, receipt

SLICE = Slice(subset="c4", bucket=0, source="c4/0.jsonl", size=100, start=0, end=100)


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


def test_the_version_of_tokenizers_is_held_and_left_out_where_there_is_none(tmp_path: Path) -> None:
    assert "tokenizers_version" not in IDENTITY.to_json()
    other = replace(IDENTITY, tokenizers_version="0.23.3")
    assert other.sha256 != IDENTITY.sha256
    Plan(identity=other, slices=(SLICE,)).write(tmp_path)
    assert Plan.read(tmp_path).identity == other
    with pytest.raises(ConfigError) as caught:
        other.require_same(replace(other, tokenizers_version="0.24.0"), owner="the plan")
    assert str(caught.value) == (
        "tokenizers_version = 0.24.0: the plan was begun with tokenizers_version = 0.23.3. "
        "Install tokenizers==0.23.3, or use another output folder."
    )


def test_left_out_long_records_are_held_and_a_plan_that_allows_none_is_that_of_older_versions(
    tmp_path: Path,
) -> None:
    assert "long_records" not in IDENTITY.to_json()
    skipping = replace(IDENTITY, long_records="skip")
    Plan(identity=skipping, slices=(SLICE,)).write(tmp_path)
    assert Plan.read(tmp_path).identity == skipping
    for mine, theirs in ((IDENTITY, skipping), (skipping, IDENTITY)):
        with pytest.raises(ConfigError) as caught:
            mine.require_same(theirs, owner="the plan")
        assert str(caught.value).startswith(
            f"long_records = {theirs.long_records}: the plan was begun with long_records = "
            f"{mine.long_records}. Use the same value"
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
