import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import fsspec.config
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.shards.sources import attempts, places, remote
from mobilellama.shards.sources.places import path_below
from mobilellama.shards.sources.remote import RemotePath
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices
from tests.helpers.dataset_hub import DatasetHub, serving_datasets
from tests.helpers.file_server import FileServer, serving


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(attempts, "_FIRST_WAIT_S", 0.01)
    (tmp_path / "site/c4").mkdir(parents=True)
    with serving(tmp_path / "site") as running:
        yield running


def _texts(sources: SourcesConfig, slice_bytes: int = 1 << 30) -> list[str]:
    return [
        text
        for slice_ in find_slices(sources, slice_bytes)
        for batch in read_documents(slice_, sources, Counts())
        for text in batch
    ]


def _file(server: FileServer, data: bytes, name: str = "a.jsonl") -> RemotePath:
    (server.folder / "c4" / name).write_bytes(data)
    path = path_below(f"{server.url}/", f"c4/{name}")
    assert isinstance(path, RemotePath)
    return path


def test_the_slices_and_texts_of_a_url_are_those_of_the_local_files(
    small_corpus: Path, tmp_path: Path
) -> None:
    """Links with spaces and signs, hidden files and notes included."""
    root = tmp_path / "root"
    root.symlink_to(small_corpus)
    other = tmp_path / "other"
    (other / "c4/a b").mkdir(parents=True)
    (other / "c4/a b/100%ä#?.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n' * 9)
    (other / "c4/.hidden.jsonl").write_text("")
    (other / "c4/README.md").write_text("a note")
    for folder in (root, other):
        with serving(folder) as server:
            local, away = SourcesConfig(root=str(folder)), SourcesConfig(root=server.url)
            assert find_slices(away, 100_000) == find_slices(local, 100_000)
            assert _texts(away, 100_000) == _texts(local, 100_000)


def test_a_folder_in_memory_is_read_like_a_local_one(small_corpus: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(f"{small_corpus}/", "/corpus", recursive=True)
    try:
        away = SourcesConfig(root="memory://corpus")
        local = SourcesConfig(root=str(small_corpus))
        assert find_slices(away, 100_000) == find_slices(local, 100_000)
        assert _texts(away, 100_000) == _texts(local, 100_000)
    finally:
        memory.rm("/corpus", recursive=True)


def test_a_folder_of_tables_behind_a_url_is_one_subset(server: FileServer) -> None:
    texts = [f"text {i}" for i in range(5_000)]
    pq.write_table(
        pa.table({"text": texts, "n": list(range(5_000))}), server.folder / "c4/a.parquet"
    )
    (server.folder / "c4/b.json").write_text('[{"text": "in a list"}]')
    sources = SourcesConfig(dataset=f"{server.url}/c4")
    assert [(slice_.subset, slice_.source) for slice_ in find_slices(sources, 1 << 30)] == [
        ("c4", "a.parquet"), ("c4", "b.json"),
    ]  # fmt: skip
    assert _texts(sources) == [*texts, "in a list"]


@pytest.mark.parametrize("fault", ["cut", "short"])
def test_an_answer_that_breaks_off_is_continued(server: FileServer, fault: str) -> None:
    data = os.urandom(3_000_000)
    path = _file(server, data)
    setattr(server, fault, 3)
    with path.open() as file:
        assert file.read() == data
    starts = [int(asked.removeprefix("bytes=").split("-")[0]) for _, asked in server.asked]
    assert starts == sorted(starts)
    if fault == "short":  # each half is kept
        assert starts[:3] == [0, 1 << 19, (1 << 19) + (1 << 18)]


def test_a_server_that_keeps_breaking_off_is_an_error_that_names_the_url(
    server: FileServer, caplog: pytest.LogCaptureFixture
) -> None:
    path = _file(server, b"x" * 1000)
    server.cut = 99
    with path.open() as file, pytest.raises(DataError) as caught:
        file.read()
    assert str(caught.value).startswith(f"{server.url}/c4/a.jsonl: cannot be read, after 5 att")
    assert len(server.asked) == 5 and len(caplog.records) == 4
    assert "attempt 2 of 5 follows" in caplog.records[0].getMessage()


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(server: FileServer) -> None:
    path = _file(server, b"x" * 1000)
    for status, times in ((503, 5), (429, 5), (403, 1), (404, 1)):
        server.asked.clear()
        server.status = status
        with path.open() as file, pytest.raises(DataError, match=r"a\.jsonl: cannot be read"):
            file.read()
        assert len(server.asked) == times, status


def test_a_server_without_ranges_is_refused_and_not_read_over_and_over(
    server: FileServer,
) -> None:
    path = _file(server, b"x" * 3_000_000)
    server.ranges = False
    with path.open() as file, pytest.raises(DataError, match="sends all of the file in place of"):
        file.read()
    assert len(server.asked) == 1


def test_a_server_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_FIRST_WAIT_S", 0.01)
    with serving(tmp_path) as server:
        url = server.url
    with pytest.raises(DataError, match=rf"{url}/: cannot be read, after 5 att"):
        find_slices(SourcesConfig(root=url), 10)


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_file_that_changes_while_it_is_read_is_an_error(server: FileServer, change: str) -> None:
    _file(server, b'{"text": "one"}\n')
    sources = SourcesConfig(root=server.url)
    (slice_,) = find_slices(sources, 100)
    file = server.folder / "c4/a.jsonl"
    if change == "size":
        file.write_bytes(b'{"text": "one"}\n' * 2)
        with pytest.raises(DataError, match="32 bytes, but it had 16 when the plan was made"):
            list(read_documents(slice_, sources, Counts()))
        return
    batches = read_documents(slice_, sources, Counts())
    assert next(batches) == ["one"]
    os.utime(file, (1, 1))
    with pytest.raises(DataError, match="was changed while it was read"):
        next(batches)


def test_the_state_is_that_of_the_server_s_headers(server: FileServer) -> None:
    path = _file(server, b"x" * 10)
    os.utime(server.folder / "c4/a.jsonl", (1_700_000_000, 1_700_000_000))
    state = path.state()
    assert (state.size, state.mtime_ns) == (10, 1_700_000_000 * 10**9)


def test_a_remote_file_reads_and_seeks_as_a_file_does(server: FileServer) -> None:
    data = os.urandom(2_500_000)
    path = _file(server, data)
    local = io.BytesIO(data)
    with path.open() as file:
        for offset, whence, size in (
            (0, 0, 10), (1_048_570, 0, 20), (-5, 2, 99), (0, 2, 1), (100, 0, -1), (-3, 1, 2),
        ):  # fmt: skip
            assert file.seek(offset, whence) == local.seek(offset, whence)
            assert file.read(size) == local.read(size)
            assert file.tell() == local.tell()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/corpus", r"s3://bucket/corpus: needs a package .* Install it: s3fs for s3:"),
        ("nothing://a", "nothing://a: cannot be opened"),
    ],
)
def test_a_url_that_nothing_reads_is_refused_with_what_to_install(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_slices(SourcesConfig(root=url), 10)


def test_an_empty_page_is_no_corpus(server: FileServer) -> None:
    with pytest.raises(ConfigError, match=r"holds no file in a subset"):
        find_slices(SourcesConfig(root=f"{server.url}/"), 10)


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_left_out(server: FileServer) -> None:
    _file(server, b"{}\n")
    server.hidden = "/c4/"
    with pytest.raises(DataError, match=r"/c4/: cannot be read"):
        find_slices(SourcesConfig(root=server.url), 10)


def test_a_folder_that_leads_to_itself_is_an_error(server: FileServer) -> None:
    (server.folder / "c4/again").symlink_to(server.folder / "c4")
    with pytest.raises(DataError, match="is more than 30 folders deep"):
        find_slices(SourcesConfig(root=server.url), 10)


LINE = b'{"text": "' + b"x" * 990 + b'"}\n'


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetHub]:
    content = io.BytesIO()
    texts = [os.urandom(500).hex() for _ in range(4_000)]
    pq.write_table(pa.table({"text": texts}), content, row_group_size=1_000)
    datasets = {
        "tester/lines": {"train.jsonl": LINE * 9_000},
        "tester/table": {"train.parquet": content.getvalue()},
    }
    monkeypatch.setattr(attempts, "_FIRST_WAIT_S", 0.01)
    with serving_datasets(datasets) as server:
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": server.url})
        yield server
    remote._file_system.cache_clear()
    places._remote_folder.cache_clear()


def test_no_byte_of_a_file_on_the_hub_comes_twice(hub: DatasetHub) -> None:
    sources = SourcesConfig(dataset="hf://datasets/tester/lines")
    (slice_,) = find_slices(sources, 1 << 30)
    hub.asked.clear()
    assert sum(map(len, read_documents(slice_, sources, Counts()))) == 9_000
    spans = [asked.split("bytes=")[1].split("-") for asked in hub.asked if "bytes=" in asked]
    assert sum(int(end) - int(start) + 1 for start, end in spans) == 9_000 * len(LINE)


def test_a_row_group_that_breaks_off_is_continued(hub: DatasetHub) -> None:
    content = hub.datasets["tester/table"]["train.parquet"]
    sources = SourcesConfig(dataset=f"hf://datasets/tester/table@{hub.commit('tester/table')}")
    (slice_,) = find_slices(sources, 1 << 30)
    batches = read_documents(slice_, sources, counts := Counts())
    texts = next(batches)
    hub.cut = 1
    texts += [text for batch in batches for text in batch]
    assert texts == pq.read_table(io.BytesIO(content))["text"].to_pylist()
    assert hub.cut == 0 and counts.source_file is not None
    assert counts.source_file["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_change_on_the_hub_is_seen_though_a_listing_is_kept(hub: DatasetHub) -> None:
    sources = SourcesConfig(dataset="hf://datasets/tester/lines")
    (slice_,) = find_slices(sources, 1 << 30)
    batches = read_documents(slice_, sources, Counts())
    next(batches)
    hub.change("tester/lines", "train.jsonl", LINE.upper() * 9_000)
    with pytest.raises(DataError, match="was changed while it was read"):
        list(batches)


def test_a_dataset_that_is_closed_later_says_how_to_log_in(hub: DatasetHub) -> None:
    sources = SourcesConfig(dataset=f"hf://datasets/tester/lines@{hub.commit('tester/lines')}")
    (slice_,) = find_slices(sources, 1 << 30)
    hub.closed.add("tester/lines")
    with pytest.raises(DataError, match=r"401.*Log in with 'hf auth login' or set HF_TOKEN"):
        list(read_documents(slice_, sources, Counts()))
