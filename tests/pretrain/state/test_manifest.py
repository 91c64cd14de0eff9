"""The manifest of a checkpoint: read whole, or refused by what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import DataError, UserError
from mobilellama.files.atomic import read_json
from mobilellama.files.sealed import write_sealed_json
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.manifest import Manifest, damaged, read_manifest
from mobilellama.run_folder import RunFolder


@pytest.mark.parametrize(
    ("field", "value"),
    [("step", 6.0), ("consumed", "48"), ("consumed", -8), ("optimizer_step", None),
     ("optimizer", "lion"), ("optimizer", {"kind": 1}), ("world_size", 3), ("counters", None),
     ("receipts", []), ("identity", "")],
)  # fmt: skip
def test_a_field_of_another_kind_is_damage_also_without_a_digest(
    run: RunFolder, field: str, value: Any
) -> None:
    path = run.checkpoint(6) / "manifest.json"
    values = read_json(path) | {field: value}
    del values["sealed"], values["content_sha256"]  # as older versions wrote it
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match="not a checkpoint's manifest"):
        Checkpoint(run.checkpoint(6))


def test_the_manifest_says_what_the_run_was(run: RunFolder, small_dataset: Path) -> None:
    manifest = read_json(run.checkpoint(6) / "manifest.json")
    fingerprint = read_json(small_dataset / "dataset.json")["fingerprint"]
    assert manifest["identity"]["data.fingerprint"] == fingerprint
    assert manifest["identity"]["train.seq_len"] == 32
    assert sum(manifest["identity"]["data.mixture"].values()) == 65_536
    assert manifest["config"]["optimizer"]["learning_rate"] == 1e-2
    assert len(manifest["counters"]["watch"]["losses"]) == 6


def written(folder: Path, **fields: Any) -> Path:
    """Write a manifest of one rank into a folder of checkpoints; fields that are None go."""
    values: dict[str, Any] = {
        "format_version": 1,
        "step": 3,
        "consumed": 24,
        "optimizer_step": 2,
        "world_size": 1,
        "attempt": 1,
        "identity": {"data.tokenizer_sha256": "t", "data.fingerprint": "f"},
        "record": {"stage": "pretrain"},
        "config": {"model": {}, "schedule": {"warmup_share": 0.1}},
        "counters": {},
        "receipts": {"rank-0.json": "0" * 64},
        **fields,
    }
    folder.mkdir()
    path = folder / "manifest.json"
    write_sealed_json(path, {name: its for name, its in values.items() if its is not None})
    return folder


def test_a_manifest_is_read_with_todays_names_of_fields(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path / "step-3"))
    assert isinstance(manifest, Manifest)
    assert (manifest.step, manifest.consumed, manifest.optimizer_step) == (3, 24, 2)
    assert manifest.record.stage == "pretrain" and manifest.frozen_sha256 is None
    assert manifest.config["schedule"] == {"warmup_ratio": 0.1}


def test_a_folder_of_any_other_name_is_the_users_and_a_step_is_not(tmp_path: Path) -> None:
    assert read_manifest(written(tmp_path / "the best one")).step == 3
    with pytest.raises(
        DataError, match=r"says step 4, but it holds .* of step 3\. Rename it to step-3"
    ):
        read_manifest(written(tmp_path / "step-4"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step": -1}, r"not a checkpoint's manifest \(step is -1\)"),
        ({"attempt": True}, r"not a checkpoint's manifest \(attempt is True\)"),
        ({"counters": []}, r"not a checkpoint's manifest \(counters is not an object\)"),
        ({"world_size": 2}, r"not a checkpoint's manifest \(1 receipts of 2 ranks\)"),
        ({"consumed": None}, r"not a checkpoint's manifest \(.*'consumed'"),
        ({"more": 1}, r"not a checkpoint's manifest \(.*'more'"),
    ],
)
def test_what_is_no_manifest_is_damage_by_what_is_wrong(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_manifest(written(tmp_path / "step-3", **fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format_version": 2}, "has format 2, but this version reads format 1"),
        ({"identity": {"data.fingerprint": "f"}}, "wrote it: data.tokenizer_sha256 is missing"),
        ({"config": {}}, "another version wrote it: model is missing"),
    ],
)
def test_another_versions_manifest_is_no_damage(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_manifest(written(tmp_path / "step-3", **fields))
    assert not isinstance(caught.value, DataError)


def test_a_missing_manifest_and_a_flipped_bit_are_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"missing, so .* not complete\. Take an earlier checkpoint"
    ):
        read_manifest(tmp_path)
    path = written(tmp_path / "step-3") / "manifest.json"
    path.write_text(path.read_text().replace("24", "25"))
    with pytest.raises(DataError, match="its content does not have the sha256"):
        read_manifest(path.parent)
    assert str(damaged(path, "torn")) == f"{path}: torn. Take an earlier checkpoint"
