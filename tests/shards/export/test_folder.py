from pathlib import Path

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.shards.export.folder import ExportFolder, ExportRecord

RECORD = ExportRecord(format="numpy", fingerprint="f" * 64, subsets=["a"], part_tokens=5.0)


def test_a_file_counts_once_it_is_noted_and_as_long_as_it_has_its_size(tmp_path: Path) -> None:
    path = tmp_path / "out"
    folder = ExportFolder(path, RECORD)
    folder.prepare()
    (path / "x.npy").write_bytes(b"abc")
    assert ExportFolder(path, RECORD).lacks(["x.npy"])
    folder.note(["x.npy"])
    assert not ExportFolder(path, RECORD).lacks(["x.npy"])
    assert ExportFolder(path, RECORD).lacks(["x.npy", "y.npy"])
    (path / "x.npy").write_bytes(b"ab")
    assert ExportFolder(path, RECORD).lacks(["x.npy"])


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"format": "hf"}, "its format is hf, and this command's is numpy"),
        ({"fingerprint": "0" * 64}, "its fingerprint is 000"),
        ({"subsets": ["a", "b"]}, r"its subsets is \['a', 'b'\], and this command's is \['a'\]"),
        ({"part_tokens": 6.0}, "its part_tokens is 6.0, and this command's is 5.0"),
    ],
)
def test_the_folder_of_another_export_is_refused(
    tmp_path: Path, other: dict[str, object], told: str
) -> None:
    ExportFolder(tmp_path, ExportRecord(**{**vars(RECORD), **other})).prepare()
    with pytest.raises(ConfigError, match=f"holds another export: {told}"):
        ExportFolder(tmp_path, RECORD)


def test_what_is_no_export_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ConfigError, match=r"exists, is not empty and has no export\.json"):
            ExportFolder(path, RECORD)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    ExportFolder(tmp_path, RECORD).prepare()
    path = tmp_path / "export.json"
    path.write_text(path.read_text().replace("numpy", "numpi"))
    with pytest.raises(DataError, match=r"export\.json: is damaged \(its content does not have"):
        ExportFolder(tmp_path, RECORD)
