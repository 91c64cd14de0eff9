import json
from pathlib import Path

from mobilellama.json_lines import UTF8_MARK
from mobilellama.unmarked import without_marks


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
