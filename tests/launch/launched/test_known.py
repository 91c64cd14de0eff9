"""The list of launches."""

import os
import subprocess
from pathlib import Path

from mobilellama.files.temporary import temporary_path
from mobilellama.launch.launched.known import known, known_file, remember


def test_what_is_launched_again_moves_to_the_end_and_stands_there_once() -> None:
    for name in ("/runs/a", "/runs/b", "/runs/a"):
        remember(Path(name))
    assert known() == [Path("/runs/b"), Path("/runs/a")]
    assert known_file().read_text() == "/runs/b\n/runs/a\n"


def test_the_newest_200_are_kept() -> None:
    known_file().parent.mkdir(parents=True)
    known_file().write_text("".join(f"/runs/{i}\n" for i in range(200)))
    remember(Path("/runs/200"))
    assert known() == [Path(f"/runs/{i}") for i in range(1, 201)]


def test_a_list_that_cannot_be_written_or_read_is_no_fault() -> None:
    known_file().parent.parent.mkdir(parents=True)
    known_file().parent.write_text("a file where the folder would be")
    remember(Path("/runs/a"))
    assert known() == []


def test_a_path_of_the_list_that_is_no_utf_8_is_kept(tmp_path: Path) -> None:
    known_file().parent.mkdir(parents=True)
    known_file().write_bytes(b"/caf\xe9\n")
    remember(tmp_path)
    assert known_file().read_bytes() == b"/caf\xe9\n" + f"{tmp_path}\n".encode()
    assert known() == [Path("/caf\udce9"), tmp_path]


def test_what_a_killed_launch_left_half_written_goes(tmp_path: Path) -> None:
    left = temporary_path(known_file())
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = left.with_name(left.name.replace(f".{os.getpid()}.", f".{ended.pid}."))
    left.parent.mkdir(parents=True)
    left.write_text("/runs/ha")
    remember(tmp_path)
    assert [path.name for path in known_file().parent.iterdir()] == ["launches"]
