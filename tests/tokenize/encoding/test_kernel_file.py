import os
import stat
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from mobilellama.tokenize.encoding.kernel_file import cache_folders, read_or_make

NAME = "kernel-0.bin"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / "cache"


def never() -> bytes:
    raise AssertionError("made again")


def test_what_was_made_once_is_read(folder: Path) -> None:
    assert read_or_make(NAME, lambda: b"code") == b"code"
    assert read_or_make(NAME, never) == b"code"
    assert {path.name for path in folder.iterdir()} == {NAME, f"{NAME}.lock"}


def with_a_flipped_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 4])


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"short",
        lambda _: b"x" * 36,
        lambda whole: whole[:-1],
        with_a_flipped_bit,
    ],
)
def test_a_damaged_file_is_made_again_with_a_warning(
    damage: Callable[[bytes], bytes], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_or_make(NAME, lambda: b"code")
    whole = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(damage(whole))
    assert read_or_make(NAME, lambda: b"code") == b"code"
    assert f"{folder / NAME} is damaged" in caplog.text
    assert (folder / NAME).read_bytes() == whole


def test_a_file_that_another_user_could_write_is_not_read(folder: Path) -> None:
    read_or_make(NAME, lambda: b"code")
    path = folder / NAME
    path.chmod(path.stat().st_mode | stat.S_IWOTH)
    assert read_or_make(NAME, lambda: b"mine") == b"mine"
    assert read_or_make(NAME, never) == b"mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_read(folder: Path) -> None:
    read_or_make(NAME, lambda: b"code")
    os.chown(folder / NAME, 12345, 12345)
    assert read_or_make(NAME, lambda: b"mine") == b"mine"


def test_a_file_that_the_group_can_write_is_neither_made_nor_read(folder: Path) -> None:
    """Many clusters have umask 002 and groups of many users."""
    before = os.umask(0o002)
    try:
        read_or_make(NAME, lambda: b"code")
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / NAME).stat().st_mode) == 0o600
    (folder / NAME).chmod(0o660)
    assert read_or_make(NAME, lambda: b"mine") == b"mine"


def test_where_the_first_folder_cannot_be_written_to_the_temporary_one_is_used(
    folder: Path, tmp_path: Path
) -> None:
    folder.write_bytes(b"a file, so that there can be no folder")
    assert read_or_make(NAME, lambda: b"code") == b"code"
    assert read_or_make(NAME, never) == b"code"
    (mine,) = (tmp_path / "temporary").iterdir()
    assert mine.name == f"mobilellama-{os.geteuid()}" and stat.S_IMODE(mine.stat().st_mode) == 0o700


def test_where_nothing_can_be_written_each_makes_its_own_and_says_so(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write_bytes(b"")
    (tmp_path / "temporary").write_bytes(b"")
    assert read_or_make(NAME, lambda: b"code") == b"code"
    assert read_or_make(NAME, lambda: b"own") == b"own"
    assert "no folder for compiled code can be written to" in caplog.text


def test_a_folder_that_can_only_be_read_is_read(folder: Path, tmp_path: Path) -> None:
    read_or_make(NAME, lambda: b"code")
    folder.chmod(0o500)
    try:
        assert read_or_make(NAME, never) == b"code"
    finally:
        folder.chmod(0o700)


def test_the_users_cache_is_used_unless_numbas_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folders()[0] == Path("/home/somebody/.cache/mobilellama")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch/cache")
    assert cache_folders()[0] == Path("/scratch/cache/mobilellama")


def _make_once(folder: str) -> bytes:
    """Work in a process: leave a file for each time that something is made."""
    os.environ["NUMBA_CACHE_DIR"] = folder

    def make() -> bytes:
        Path(folder, f"made-{os.getpid()}").touch()
        return b"code"

    return read_or_make(NAME, make)


def test_of_processes_that_start_at_once_one_makes_it(folder: Path) -> None:
    with ProcessPoolExecutor(20, mp_context=get_context("fork")) as pool:
        assert set(pool.map(_make_once, [str(folder)] * 60)) == {b"code"}
    assert len([*folder.glob("made-*")]) == 1
