"""A corpus behind a URL is verified, reported and audited like the same files in a folder."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import sha256_of_file, sha256_of_range
from mobilellama.shards.audit.audit import Config as AuditConfig
from mobilellama.shards.audit.audit import audit
from mobilellama.shards.dataset import Slice
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.report.bad_records import bad_records
from mobilellama.shards.sources import attempts
from mobilellama.shards.sources.located import (
    locate,
    open_source,
    require_corpus,
    sha256_of_source,
    state_of,
)
from mobilellama.shards.verification.journal import Journal
from mobilellama.shards.verification.sources import verify_sources
from tests.helpers.changed_sources import identity_of, run
from tests.helpers.file_server import serving

LINES = b"".join(b'{"text": "line %d, which is red"}\n' % i for i in range(60))


def _slice(source: str, size: int = 0) -> Slice:
    return Slice(subset="c4", bucket=0, source=source, size=size, start=0, end=size)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus with bad records, a packed file, and a name with signs."""
    import zstandard

    root = tmp_path / "corpus"
    (root / "c4").mkdir(parents=True)
    (root / "c4/a b#.jsonl").write_bytes(LINES + b'no json\n{"no": 1}\n')
    (root / "c4/b.jsonl.zst").write_bytes(zstandard.compress(LINES + b"[]\n"))
    return root


@pytest.fixture(params=["http", "memory"])
def url(folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of the corpus; what changes in the folder later changes there only over HTTP."""
    if request.param == "http":
        with serving(folder) as server:
            yield f"{server.url}/"
        return
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/corpus", recursive=True)
    yield "memory://corpus"
    memory.rm("/corpus", recursive=True)


@pytest.fixture
def dataset(folder: Path, small_tokenizer: Path, tmp_path: Path) -> Path:
    assert run(folder, small_tokenizer, tmp_path / "out", "--slice_bytes", "900") == 0
    return tmp_path / "out"


def test_a_file_is_found_with_the_column_that_was_read(folder: Path, url: str) -> None:
    """A '#' may be of the file's name."""
    for given in (str(folder), url):
        for source, name, column in (
            ("c4/a b#.jsonl", "a b#.jsonl", "text"),
            ("c4/a b#.jsonl#body", "a b#.jsonl", "body"),
            ("c4/b.jsonl.zst", "b.jsonl.zst", "text"),
        ):
            path, found = locate(_slice(source), given)
            assert (path.name, found) == (name, column)
            with open_source(path) as file:
                assert file.read() == (folder / "c4" / name).read_bytes()
    only = folder / "c4/b.jsonl.zst"
    assert locate(_slice("b.jsonl.zst"), str(only)) == (only, "text")


def test_bytes_and_states_are_those_of_the_file(folder: Path, url: str) -> None:
    here, _ = locate(_slice("c4/a b#.jsonl"), str(folder))
    away, _ = locate(_slice("c4/a b#.jsonl"), url)
    assert isinstance(here, Path)
    states = state_of(here), state_of(away)
    assert states[0] and states[1] and states[0].size == states[1].size == here.stat().st_size
    parts: list[int] = []
    found = sha256_of_source(away, 100, 700, on_read=parts.append)
    assert found == sha256_of_range(here, 100, 700) and sum(parts) == 600
    assert sha256_of_source(away, 0, None) == sha256_of_source(here, 0, None)
    assert sha256_of_source(here, 0, None) == sha256_of_file(here)
    gone, _ = locate(_slice("c4/gone.jsonl"), url)
    assert state_of(gone) is None and state_of(folder) is None
    with pytest.raises(DataError, match=r"c4/gone\.jsonl: cannot be read"):
        open_source(gone)


def test_a_url_is_not_looked_for_as_a_folder(tmp_path: Path, url: str) -> None:
    require_corpus(url, "")
    with pytest.raises(ConfigError, match=r"sources = .*none: is neither a folder nor a file, nor"):
        require_corpus(str(tmp_path / "none"), "Give another")


def test_verify_reads_a_url(dataset: Path, url: str, tmp_path: Path) -> None:
    checked = verify_sources(dataset, identity_of(dataset), url, workers=2)
    assert (checked.buckets, checked.unknown) == (4, 0)
    receipts_bytes = len(LINES + b'no json\n{"no": 1}\n')
    assert checked.bytes > receipts_bytes
    with Journal(tmp_path / "journal") as journal:
        verify_sources(dataset, identity_of(dataset), url, workers=2, journal=journal)
        again = verify_sources(dataset, identity_of(dataset), url, workers=2, journal=journal)
    assert again.known_bytes == 0  # what this check has noted is for the next one
    with Journal(tmp_path / "journal") as journal:
        again = verify_sources(dataset, identity_of(dataset), url, workers=2, journal=journal)
    assert again.known_bytes == again.bytes == checked.bytes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("bytes", r"a b#\.jsonl: bytes 0 to 908, of which bucket c4/00000 was made: sha256 "),
        ("size", r"b\.jsonl\.zst.*, of which bucket c4/00003 was made: 9 bytes, expected "),
        ("gone", r"b\.jsonl\.zst.*, of which bucket c4/00003 was made: missing"),
    ],
)
def test_verify_finds_what_has_changed_behind_a_url(
    dataset: Path, folder: Path, change: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_FIRST_WAIT_S", 0.01)
    if change == "bytes":
        file = folder / "c4/a b#.jsonl"
        file.write_bytes(
            file.read_bytes().replace(b"line 7, which is red", b"line 7, which is sad")
        )
    elif change == "size":
        (folder / "c4/b.jsonl.zst").write_bytes(b"9" * 9)
    else:
        (folder / "c4/b.jsonl.zst").unlink()
    with serving(folder) as server, pytest.raises(DataError, match=message) as caught:
        verify_sources(dataset, identity_of(dataset), server.url, workers=2)
    assert str(caught.value).startswith(f"{server.url}/c4/")
    shutil.rmtree(folder / "c4")
    with serving(folder) as server:
        with pytest.raises(ConfigError, match="holds none of the files that the dataset was made"):
            verify_sources(dataset, identity_of(dataset), server.url, workers=2)


def test_the_report_shows_the_lines_behind_a_url(dataset: Path, folder: Path, url: str) -> None:
    here, away = (bad_records(TokenDataset(dataset), given) for given in (str(folder), url))
    assert here == away
    assert {example.raw for one in away for example in one.examples} == {
        "no json", '{"no": 1}', "[]",
    }  # fmt: skip


def test_the_audit_reads_a_url(dataset: Path, folder: Path, url: str) -> None:
    here, away = (
        audit(AuditConfig(dataset=str(dataset), sources=given)) for given in (str(folder), url)
    )
    assert here == away and away.compared == 120 and not away.mismatches


def test_the_audit_of_texts_and_a_lost_file_behind_a_url(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "texts"
    (texts / "in").mkdir(parents=True)
    for number in range(5):
        (texts / f"in/{number}.txt").write_text(f"text {number}")
    assert run(texts, small_tokenizer, tmp_path / "made", kind="dataset") == 0
    with serving(texts) as server:
        config = AuditConfig(dataset=str(tmp_path / "made"), sources=f"{server.url}/")
        assert audit(config).compared == 5
        (texts / "in/3.txt").unlink()
        with pytest.raises(DataError, match=f"{re.escape(server.url)}/: 4 text files, but it"):
            audit(config)
