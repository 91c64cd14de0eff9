"""Files are whole or absent, and the same content has the same bytes and hashes."""

import hashlib
import os
import resource
import signal
from pathlib import Path

import pytest

from mobilellama.files import atomic
from mobilellama.files.atomic import (
    library_file,
    read_json,
    sha256_of_file,
    sha256_of_json,
    sha256_of_range,
    whole_file,
    write_json,
)


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with whole_file(path) as file:
        file.write(b"abc")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_former_file_and_no_temporary(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"before")
    with pytest.raises(error), whole_file(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_target_that_cannot_be_replaced_leaves_no_temporary(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught, whole_file(tmp_path / "folder") as file:
        file.write(b"x")
    assert str(caught.value) == f"[Errno 21] Is a directory: '{tmp_path}/folder'"
    with pytest.raises(IsADirectoryError) as caught, library_file(tmp_path / "folder"):
        pass
    assert str(caught.value) == f"[Errno 21] Is a directory: '{tmp_path}/folder'"
    with pytest.raises(FileNotFoundError) as caught, whole_file(tmp_path / "no/f"):
        pass
    assert caught.value.filename == f"{tmp_path}/no/f"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_disk_that_is_full_is_told_with_the_files_name(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes a write fail as a full disk does; that error names no file."""
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_json(tmp_path / "manifest.json", ["x" * 2_000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, former)
    assert caught.value.filename == str(tmp_path / "manifest.json")
    assert str(caught.value).endswith("manifest.json'")
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_share_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with whole_file(path) as one, whole_file(path) as other:
        one.write(b"1" * 1000)
        other.write(b"2")
    assert path.read_bytes() == b"1" * 1000  # the outer one ended last


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_a_file_of_a_library_gets_the_mode_of_new_files(tmp_path: Path, umask: int) -> None:
    former = os.umask(umask)
    try:
        with library_file(tmp_path / "f") as temporary:
            temporary.unlink()  # as safetensors does: a file of its own takes the place
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
            temporary.write_bytes(b"x")
    finally:
        os.umask(former)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o666 & ~umask
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    with pytest.raises(ValueError, match="half"), library_file(tmp_path / "f") as temporary:
        temporary.write_bytes(b"half")
        raise ValueError("half")
    assert (tmp_path / "f").read_bytes() == b"x"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_the_same_value_gives_the_same_bytes(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": "Grüße \u2028 \U0001f600", "float": 0.1}
    for name in ("one", "two"):
        write_json(tmp_path / name, value)
    data = (tmp_path / "one").read_bytes()
    assert data == (tmp_path / "two").read_bytes()
    assert data.endswith(b"}\n") and "Grüße".encode() in data
    assert read_json(tmp_path / "one") == value


def test_half_a_surrogate_pair_is_escaped_and_read_back(tmp_path: Path) -> None:
    value = {"\ud800": "a\udc80\\ü"}
    write_json(tmp_path / "f", value, indent=None)
    assert (tmp_path / "f").read_text(encoding="utf-8") == '{"\\ud800": "a\\udc80\\\\ü"}\n'
    assert read_json(tmp_path / "f") == value


def test_a_value_that_is_no_json_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "f", {"a": object()})
    assert not list(tmp_path.iterdir())


def test_a_json_file_has_a_byte_order_mark_or_not_and_is_never_too_deep(tmp_path: Path) -> None:
    (tmp_path / "marked").write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa4"}\r\n')
    assert read_json(tmp_path / "marked") == {"a": "ä"}
    (tmp_path / "deep").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "deep")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_a_file_is_hashed_whole_around_the_chunk_size(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    assert sha256_of_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("chunk_bytes", [1, 3, 1 << 22])
@pytest.mark.parametrize(("start", "end"), [(0, 10), (3, 7), (4, 4), (9, 10)])
def test_the_hash_is_of_the_range_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chunk_bytes: int, start: int, end: int
) -> None:
    monkeypatch.setattr(atomic, "_CHUNK_BYTES", chunk_bytes)
    (tmp_path / "a").write_bytes(b"0123456789")
    read: list[int] = []
    expected = hashlib.sha256(b"0123456789"[start:end]).hexdigest()
    assert sha256_of_range(tmp_path / "a", start, end, on_read=read.append) == expected
    assert sum(read) == end - start and all(count <= chunk_bytes for count in read)


def test_a_file_that_is_shorter_than_its_range_has_another_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    whole = sha256_of_range(tmp_path / "a", 0, 10)
    (tmp_path / "a").write_bytes(b"01234")
    assert sha256_of_range(tmp_path / "a", 0, 10) == hashlib.sha256(b"01234").hexdigest() != whole


def test_the_hash_of_json_is_that_of_its_canonical_text() -> None:
    expected = hashlib.sha256('{"a":[1,"é"],"b":null}'.encode()).hexdigest()
    assert sha256_of_json({"b": None, "a": [1, "é"]}) == expected
    assert sha256_of_json({"a": [1, "é"], "b": None}) == expected
    assert sha256_of_json({"a": ["é", 1], "b": None}) != expected
