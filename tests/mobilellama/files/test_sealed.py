"""JSON files that carry a digest: every flipped bit is found, and old files are read."""

import logging
from pathlib import Path
from typing import Any

import pytest

from mobilellama.files.atomic import read_json, write_json
from mobilellama.files.sealed import SealError, read_sealed_json, write_sealed_json

CONTENT: dict[str, Any] = {
    "step": 46, "share": 0.1, "none": None, "flag": True, "text": "Grüße \ud800",
    "sha256": {"bin": "0" * 64}, "nested": {"a": [1, {"b": ""}]}, "loss": float("nan"),
}  # fmt: skip


def same(one: object, other: object) -> bool:
    return repr(one) == repr(other)  # NaN is not equal to itself, and 1 is not True


def test_what_was_written_is_read_without_the_digest(tmp_path: Path) -> None:
    write_sealed_json(tmp_path / "f", CONTENT)
    assert same(read_sealed_json(tmp_path / "f", owner=None), CONTENT)
    value = read_json(tmp_path / "f")
    assert [*value] == ["sealed", *CONTENT, "content_sha256"]
    first = (tmp_path / "f").read_bytes()
    write_sealed_json(tmp_path / "f", CONTENT)
    assert (tmp_path / "f").read_bytes() == first


def test_every_flipped_bit_changes_nothing_or_is_found(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_sealed_json(path, CONTENT)
    good = path.read_bytes()
    found = 0
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        try:
            value = read_sealed_json(path, owner=tmp_path)
        except ValueError:
            found += 1
            continue
        assert same(value, CONTENT), bytes(bad)
    assert found > 0.9 * 8 * len(good)  # the others are in white space


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 45}, "its content does not have the sha256"),
        ({"new": 1}, "its content does not have the sha256"),
        ({"sealed": 2}, "its field 'sealed' is 2, not 1"),
        ({"sealed": True}, "its field 'sealed' is True, not 1"),
        ({"content_sha256": None}, "its content does not have the sha256"),
    ],
)
def test_a_changed_field_is_told(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_sealed_json(tmp_path / "f", CONTENT)
    write_json(tmp_path / "f", read_json(tmp_path / "f") | change)
    with pytest.raises(SealError, match=message):
        read_sealed_json(tmp_path / "f", owner=None)


@pytest.mark.parametrize("lost", ["sealed", "content_sha256", "step"])
def test_a_lost_field_makes_no_old_file_of_a_new_one(tmp_path: Path, lost: str) -> None:
    write_sealed_json(tmp_path / "f", CONTENT)
    value = read_json(tmp_path / "f")
    del value[lost]
    write_json(tmp_path / "f", value)
    with pytest.raises(SealError):
        read_sealed_json(tmp_path / "f", owner=None)


def test_an_old_file_is_read_with_one_warning_a_folder_in_the_first_process_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        write_json(tmp_path / name, CONTENT)
        assert same(read_sealed_json(tmp_path / name, owner=tmp_path), CONTENT)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"{tmp_path}: an older version wrote it" in caplog.text
    caplog.clear()
    monkeypatch.setenv("RANK", "1")
    read_sealed_json(tmp_path / "one", owner=tmp_path / "another")
    assert not caplog.records


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\x00", b"[" * 99_999, b"1" * 5000])
def test_what_is_no_json_object_is_a_value_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ValueError, match=r".") as caught:
        read_sealed_json(tmp_path / "f", owner=None)
    assert not isinstance(caught.value, SealError)
