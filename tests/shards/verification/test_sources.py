"""The sources of a dataset are compared with the hashes of what was read of them."""

from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.shards.verification.sources import verify_sources
from tests.helpers.changed_sources import change, identity_of, make_corpus, run, told


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "root")


def test_verify_compares_the_sources_by_their_hashes(
    root: Path, small_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mobilellama.shards.main import main as shards_main

    output = tmp_path / "out"
    assert run(root, small_tokenizer, output, "--slice_bytes", "900") == 0
    (root / "c4/a.jsonl").touch()
    verify = ["verify", str(output), "--sources", str(root)]
    capsys.readouterr()
    assert told(shards_main, verify) == 0
    assert f"{root}: the sources of 9 buckets are unchanged, " in capsys.readouterr().out
    change(root / "c4/a.jsonl", 39, keep_time=True)
    assert told(shards_main, verify) == 2
    err = capsys.readouterr().err
    assert f"{root}/c4/a.jsonl: bytes 1,800 to 1,870, of which bucket c4/00002 was made" in err
    (root / "c4/a.jsonl").unlink()
    assert told(shards_main, verify) == 2
    err = capsys.readouterr().err
    assert "bucket c4/00000 was made: cannot be read (No such file or directory) (and 2 mo" in err
    assert "Buckets made of other bytes: c4/00000, c4/00001, c4/00002. Restore the sources" in err
    with pytest.raises(ConfigError, match=r"sources = .*holds none of the files .*c4/book/"):
        verify_sources(output, identity_of(output), str(root / "c4"), workers=1)
    with pytest.raises(ConfigError, match="is neither a folder nor a file"):
        verify_sources(output, identity_of(output), str(tmp_path / "none"), workers=1)
