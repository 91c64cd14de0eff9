import json
from pathlib import Path

from mobilellama.files.json_lines import UTF8_MARK
from mobilellama.files.unmarked import copy_unmarked, without_marks


def test_a_folder_without_marks_is_given_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with without_marks(tmp_path) as folder:
        assert folder == tmp_path
    with without_marks(tmp_path / "owner/name-on-the-hub") as folder:
        assert folder == tmp_path / "owner/name-on-the-hub"


def test_marked_files_are_given_without_their_marks_and_stay_as_they_are(tmp_path: Path) -> None:
    content = UTF8_MARK + b'{\r\n"a": "\xc3\xa4"\r\n}\r\n'
    (tmp_path / "config.json").write_bytes(content)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/part").write_bytes(b"w")
    (tmp_path / "other.json").write_text("[]")
    with without_marks(tmp_path) as folder:
        assert json.loads((folder / "config.json").read_text(encoding="utf-8")) == {"a": "ä"}
        assert (folder / "weights/part").read_bytes() == b"w"
        assert (folder / "other.json").read_text() == "[]"
    assert not folder.exists() and (tmp_path / "weights/part").exists()
    assert (tmp_path / "config.json").read_bytes() == content


def test_a_copy_has_no_mark_where_it_is_json_and_is_byte_for_byte_else(tmp_path: Path) -> None:
    for name, copied in (("a.json", b"{}\r\n"), ("a.model", UTF8_MARK + b"{}\r\n")):
        (tmp_path / name).write_bytes(UTF8_MARK + b"{}\r\n")
        copy_unmarked(tmp_path / name, tmp_path / f"copy.{name}")
        assert (tmp_path / f"copy.{name}").read_bytes() == copied
