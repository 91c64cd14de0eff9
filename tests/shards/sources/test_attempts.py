import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import numpy as np
import pytest

from mobilellama.config import DataError
from mobilellama.shards.sources import attempts
from mobilellama.shards.sources.attempts import ask
from mobilellama.shards.sources.places import path_below
from mobilellama.shards.sources.remote import RemotePath
from tests.helpers.file_server import FileServer, serving

DATA = np.random.default_rng(3).bytes(100_000)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(attempts, "_FIRST_WAIT_S", 0.01)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/a.bin").write_bytes(DATA)
    with serving(tmp_path / "site") as running:
        yield running


def _file(server: FileServer, name: str = "a.bin") -> RemotePath:
    path = path_below(server.url, name)
    assert isinstance(path, RemotePath)
    return path


@pytest.mark.parametrize("as_date", [False, True])
def test_a_busy_server_is_given_the_time_that_it_asks_for(
    server: FileServer, caplog: pytest.LogCaptureFixture, as_date: bool
) -> None:
    server.busy = 1
    # A date has whole seconds: 2 to 3 from now.
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    server.retry_after = then if as_date else "1"
    begin = time.monotonic()
    assert _file(server).read(0, len(DATA)) == DATA
    assert time.monotonic() - begin >= 1
    (record,) = caplog.records
    assert "attempt 2 of 5 follows in " in record.getMessage()
    assert len(server.asked) == 2


@pytest.mark.parametrize("retry_after", ["soon", "-5", "Tue, 01 Dec 2020 00:00:00 GMT", ""])
def test_a_retry_after_that_says_nothing_is_passed_over(
    server: FileServer, retry_after: str
) -> None:
    server.busy, server.retry_after = 1, retry_after
    begin = time.monotonic()
    assert _file(server).read(0, len(DATA)) == DATA
    assert time.monotonic() - begin < 5


def test_nobody_waits_longer_than_the_limit(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attempts, "_LONGEST_WAIT_S", 0.5)
    server.busy, server.retry_after = 1, "86400"
    assert _file(server).read(0, len(DATA)) == DATA
    assert "follows in 0.5 s" in caplog.text


def test_a_redirect_is_followed_with_the_range(server: FileServer) -> None:
    server.moved["/old/a.bin"] = "/a.bin"
    with _file(server, "old/a.bin").open() as file:
        file.seek(50_000)
        assert file.read() == DATA[50_000:]
    assert server.asked == [("/a.bin", "bytes=50000-99999")]


def test_a_refusal_says_how_to_log_in(server: FileServer) -> None:
    server.status = 401
    with pytest.raises(DataError, match=r"a\.bin: cannot be read \(401.*credentials that may read"):
        _file(server).read(0, 10)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("url", "name", "remedy"),
    [
        ("s3://bucket/a", "NoCredentialsError", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("gs://bucket/a", "DefaultCredentialsError", "Run 'gcloud auth application-default login'"),
        ("az://box/a", "ClientAuthenticationError", "Give this machine credentials that may read"),
    ],
)
def test_missing_credentials_are_no_reason_to_ask_again(url: str, name: str, remedy: str) -> None:
    """The errors are of packages that are not installed here, and known by their names."""
    asked: list[str] = []

    def read() -> None:
        asked.append(url)
        raise OSError("it failed") from type(name, (Exception,), {})("Unable to locate credentials")

    with pytest.raises(DataError, match=r"\(Unable to locate credentials\)") as caught:
        ask(url, read)
    assert remedy in str(caught.value) and asked == [url]
