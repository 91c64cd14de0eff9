import logging
import os
from pathlib import Path

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.shards.source_file import FileState, SourceRange
from mobilellama.tokenize.sources import text_files
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices
from mobilellama.tokenize.sources.text_files import read_text_files_again, text_files_state
from tests.helpers.file_server import serving


@pytest.fixture(autouse=True)
def _listed_anew() -> None:
    text_files._sizes.cache_clear()


def _folder(place: Path, count: int = 100) -> SourcesConfig:
    """Make files of 1 to 10 bytes in several folders."""
    for i in range(count):
        file = place / f"{i % 7}/{i:04}{'.md' if i % 3 else '.txt'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{i}".ljust(i % 10 + 1, "é" if i % 10 > 8 else "x"))
    return SourcesConfig(dataset=str(place))


def _texts(sources: SourcesConfig, slice_bytes: int) -> tuple[list[str], list[Counts]]:
    texts, counted = [], []
    for slice_ in find_slices(sources, slice_bytes):
        counted.append(Counts())
        for batch in read_documents(slice_, sources, counted[-1]):
            texts += batch
    return texts, counted


def test_each_file_is_a_document_in_byte_order_of_paths(tmp_path: Path) -> None:
    sources = _folder(tmp_path)
    paths = sorted(tmp_path.rglob("*.*"), key=os.fsencode)
    expected = [path.read_text() for path in paths]
    for slice_bytes in (1, 37, 1 << 30):
        assert _texts(sources, slice_bytes)[0] == expected


def test_small_files_share_a_slice_and_no_slice_is_larger_than_asked(tmp_path: Path) -> None:
    sources = _folder(tmp_path)
    (tmp_path / "3/large.txt").write_text("x" * 500)
    paths = sorted(tmp_path.rglob("*.*"), key=os.fsencode)
    slices = find_slices(sources, 60)
    assert [slice_.bucket for slice_ in slices] == list(range(len(slices)))
    assert [s.start for s in slices] == [0, *(s.end for s in slices[:-1])]
    assert slices[-1].end == slices[0].size == len(paths) == 101
    for slice_ in slices:
        mine = paths[slice_.start : slice_.end]
        assert slice_.source == str(mine[0].relative_to(tmp_path))
        assert sum(path.stat().st_size for path in mine) <= 60 or len(mine) == 1
    assert len(slices) < 25


def test_a_file_that_is_no_text_is_a_bad_record_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfwith a mark")
    (tmp_path / "b.md").write_bytes(b"caf\xe9 in Latin-1")
    (tmp_path / "c.txt").write_bytes(b"")
    (tmp_path / "d.txt").write_bytes(b"a\r\nb")
    texts, (counts,) = _texts(SourcesConfig(dataset=str(tmp_path)), 1 << 30)
    assert texts == ["with a mark", "a\r\nb"]
    assert (counts.records, counts.bad_records, counts.empty_texts) == (4, 1, 1)
    assert counts.bad_places == [[1, "b.md: not UTF-8 (invalid continuation byte at byte 3)"]]


def test_texts_beside_data_are_left_out_and_other_files_beside_texts_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sources = _folder(tmp_path, 3)
    (tmp_path / "picture.png").touch()
    with caplog.at_level(logging.INFO):
        assert find_slices(sources, 10)[0].unit == "files"
        (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
        assert [slice_.source for slice_ in find_slices(sources, 10)] == ["a.jsonl"]
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "left out: 1 file beside the data (1 .png), such as picture.png"
    assert told[1].startswith("left out: 4 files beside the data (2 .md, 1 .txt, 1 .png)")
    (tmp_path / "b.zip").touch()
    with pytest.raises(ConfigError, match=r"holds b\.zip"):
        find_slices(sources, 10)


def test_a_file_that_was_added_since_the_plan_is_an_error(tmp_path: Path) -> None:
    sources = _folder(tmp_path, 3)
    (slice_,) = find_slices(sources, 1 << 30)
    (tmp_path / "0/new.txt").write_text("new")
    with pytest.raises(DataError, match="4 text files, but it had 3 when the plan was made"):
        list(read_documents(slice_, sources, Counts()))


def test_a_changed_text_is_seen_by_its_state_and_by_its_hash(tmp_path: Path) -> None:
    sources = _folder(tmp_path, 5)
    (slice_,) = find_slices(sources, 1 << 30)
    counts = Counts()
    list(read_documents(slice_, sources, counts))
    known = SourceRange.from_json(counts.source_file)
    assert known is not None and known.state == text_files_state(slice_, sources)
    assert known.state == FileState.of([path.stat() for path in tmp_path.rglob("*.*")])
    assert read_text_files_again(slice_, sources) == known
    file = tmp_path / "1/0001.md"
    file.write_bytes(file.read_bytes().replace(b"1", b"2"))
    again = read_text_files_again(slice_, sources)
    assert again is not None and again.sha256 != known.sha256 and again.state != known.state


def test_texts_behind_a_url_are_those_of_the_local_folder(tmp_path: Path) -> None:
    local = _folder(tmp_path / "texts", 30)
    with serving(tmp_path) as server:
        away = SourcesConfig(dataset=f"{server.url}/texts/")
        assert find_slices(away, 60) == find_slices(local, 60)
        assert _texts(away, 60)[0] == _texts(local, 60)[0]
