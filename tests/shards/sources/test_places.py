from pathlib import Path

from mobilellama.shards.sources.places import files_below, is_folder, path_below
from mobilellama.shards.sources.remote import RemotePath
from tests.tokenize.conftest import place


def test_a_place_is_a_local_folder_unless_it_is_a_url(tmp_path: Path) -> None:
    place(tmp_path, c4__a_DOT_jsonl=4, c4___DOT_hidden=3)
    assert files_below(str(tmp_path)) == {"c4/a.jsonl": 4}
    assert path_below(str(tmp_path), "c4/a.jsonl") == tmp_path / "c4/a.jsonl"
    away = path_below("memory://corpus/", "c4/a.jsonl.zst")
    assert isinstance(away, RemotePath)
    assert (str(away), away.suffix) == ("memory://corpus/c4/a.jsonl.zst", ".zst")
    assert is_folder(str(tmp_path)) and is_folder("memory://corpus")
    assert not is_folder(str(tmp_path / "c4/a.jsonl")) and not is_folder("owner/name")
