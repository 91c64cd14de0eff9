import threading
from pathlib import Path

import numpy as np
import pytest

from mobilellama.config import DataError
from mobilellama.shards.sources import attempts
from mobilellama.shards.sources.places import path_below
from mobilellama.shards.sources.read_ahead import ReadAhead
from mobilellama.shards.sources.remote import RemotePath
from tests.helpers.file_server import serving

DATA = np.random.default_rng(3).bytes(12_000_000)
MIB = 1 << 20


def test_a_block_is_fetched_while_the_caller_goes_on() -> None:
    go_on = threading.Event()

    def read(start: int, end: int) -> bytes:
        assert go_on.wait(10)
        return DATA[start:end]

    ahead = ReadAhead(read)
    ahead.begin(5, 9)  # returns, though nothing can be read yet
    go_on.set()
    assert ahead.take(5) == DATA[5:9]
    assert ahead.take(9) == b""  # nothing was begun


def test_a_block_of_another_place_is_dropped_with_its_error() -> None:
    def read(start: int, end: int) -> bytes:
        if start == 0:
            raise DataError("it is lost")
        return DATA[start:end]

    ahead = ReadAhead(read)
    ahead.begin(0, 9)
    assert ahead.take(100) == b""
    ahead.begin(100, 200)
    assert ahead.take(100) == DATA[100:200]
    ahead.begin(0, 9)
    with pytest.raises(DataError, match="it is lost"):
        ahead.take(0)
    ahead.begin(3, 9)
    assert ahead.take(3) == DATA[3:9]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(attempts, "_FIRST_WAIT_S", 0.01)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/a.jsonl").write_bytes(DATA)
    (tmp_path / "site/a.parquet").write_bytes(DATA)
    return tmp_path / "site"


def _file(url: str, name: str) -> RemotePath:
    path = path_below(url, name)
    assert isinstance(path, RemotePath)
    return path


def test_a_file_in_order_comes_once_and_ahead_and_a_table_only_as_far_as_it_is_read(
    site: Path,
) -> None:
    for name, blocks in (("a.jsonl", 3), ("a.parquet", 2)):
        with serving(site) as server, _file(server.url, name).open() as file:
            assert file.read(MIB + 1) == DATA[: MIB + 1]
            if name == "a.jsonl":
                assert file._ahead._thread is not None
                file._ahead._thread.join(10)
            else:
                assert file._ahead._thread is None
            assert len(server.asked) == blocks
            assert file.read() == DATA[MIB + 1 :]
            starts = [int(span.removeprefix("bytes=").split("-")[0]) for _, span in server.asked]
            assert starts == [0, MIB, 3 * MIB, 7 * MIB]


def test_what_fails_ahead_is_an_error_where_it_is_wanted(site: Path) -> None:
    with serving(site) as server, _file(server.url, "a.jsonl").open() as file:
        assert file.read(MIB) == DATA[:MIB]
        assert file.read(1) == DATA[MIB : MIB + 1]
        assert file._ahead._thread is not None
        file._ahead._thread.join(10)
        server.status = 503
        assert file.read(2 * MIB) == DATA[MIB + 1 : 3 * MIB + 1]  # its next block fails meanwhile
        file._ahead._thread.join(10)
        server.status = 0
        assert file.read(4 * MIB - 1) == DATA[3 * MIB + 1 : 7 * MIB]
        with pytest.raises(DataError, match=r"a\.jsonl: cannot be read, after 5 attempts"):
            file.read(1)
        assert file.read() == DATA[7 * MIB :]  # asked for again
