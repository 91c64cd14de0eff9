"""What a bucket was made of: the state of a file, and what a receipt keeps."""

import os
from pathlib import Path

import pytest

from mobilellama.shards.source_file import FileState, SourceRange


def write(path: Path, content: bytes) -> os.stat_result:
    path.write_bytes(content)
    return path.stat()


def test_the_state_of_several_files_is_their_sizes_and_the_latest_times(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a", b"123"), write(tmp_path / "b", b"45")
    os.utime(tmp_path / "a", ns=(5, 7))
    one = (tmp_path / "a").stat()
    state = FileState.of([one, two])
    assert (state.size, state.inode) == (5, one.st_ino + two.st_ino)
    assert state.mtime_ns == two.st_mtime_ns
    assert state.ctime_ns == max(one.st_ctime_ns, two.st_ctime_ns)


@pytest.mark.parametrize("change", ["touched", "longer", "another file"])
def test_whatever_is_done_to_a_file_its_state_is_another(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a"
    before = FileState.of([write(path, b"abc")])
    if change == "touched":
        os.utime(path, ns=(1, 1))
    elif change == "longer":
        path.write_bytes(b"abcd")
    else:
        (tmp_path / "b").write_bytes(b"abc")
        os.utime(tmp_path / "b", ns=(before.mtime_ns, before.mtime_ns))
        (tmp_path / "b").replace(path)
    assert FileState.of([path.stat()]) != before


STATE = FileState(size=10, mtime_ns=2, ctime_ns=3, inode=4)
RANGE = SourceRange(state=STATE, start=0, end=10, sha256="0" * 64)


def test_what_a_receipt_holds_is_read_back() -> None:
    assert SourceRange.from_json(RANGE.to_json()) == RANGE


def test_a_key_that_a_later_version_adds_has_no_effect() -> None:
    assert SourceRange.from_json({**RANGE.to_json(), "blake3": "0" * 64}) == RANGE


@pytest.mark.parametrize(
    "name", ["size", "mtime_ns", "ctime_ns", "inode", "start", "end", "sha256"]
)
def test_a_receipt_that_lacks_something_knows_nothing(name: str) -> None:
    values = RANGE.to_json()
    del values[name]
    assert SourceRange.from_json(values) is None
    assert SourceRange.from_json({**RANGE.to_json(), "size": "many"}) is None
