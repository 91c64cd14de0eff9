"""Temporaries: names that no two writers share, and which of them nobody writes any more."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mobilellama.files.temporary import (
    remove_abandoned,
    remove_of_processes,
    temporaries,
    temporary_path,
)

HOST = socket.gethostname()
DEAD = 999_999_999  # above every number that Linux gives


def test_a_temporary_is_named_by_its_writer_and_never_twice() -> None:
    names = {temporary_path(Path("x/f")).name for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(f"f.tmp.{HOST}.{os.getpid()}.") for name in names)


def test_a_temporary_tells_its_file_machine_and_process(tmp_path: Path) -> None:
    made = temporary_path(tmp_path / "00001.bin")
    (found,) = temporaries([made, tmp_path / "00001.bin", tmp_path / "a.tmp.b"])
    assert (found.path, found.final, found.host, found.pid) == (
        made, "00001.bin", HOST, os.getpid(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "final", "host", "pid"),
    [
        ("f.tmp.a.host-7.7.0123abcd", "f", "a.host-7", 7),  # a host with its domain
        ("a.tmp.b.tmp.host.7.0123abcd", "a.tmp.b", "host", 7),
        ("f.tmp.h.7.0123abcd.tmp.h.7.89abcdef", "f", "h", 7),  # the temporary of a temporary
    ],
)
def test_dots_in_the_names_of_file_and_machine_do_not_confuse(
    name: str, final: str, host: str, pid: int
) -> None:
    (found,) = temporaries([Path(name)])
    assert (found.final, found.host, found.pid) == (final, host, pid)


@pytest.mark.parametrize("name", ["notes.tmp.txt", "f.tmp.host.1.ab", ".tmp.h.1.0123abcd", "f"])
def test_other_names_are_a_users(name: str) -> None:
    assert list(temporaries([Path(name)])) == []


def test_only_what_nobody_writes_any_more_is_removed(tmp_path: Path) -> None:
    writers = (f"{HOST}.{os.getpid()}", f"{HOST}.{DEAD}", "node7.12", "node8.12")
    alive, dead, other, old = (tmp_path / f"f.tmp.{writer}.0123abcd" for writer in writers)
    for path in (alive, dead, other, old):
        path.touch()
    os.utime(old, (0, 0))
    ahead_s = time.time() + 600
    os.utime(other, (ahead_s, ahead_s))  # that machine's clock is ahead of ours
    folder = tmp_path / f"subset.tmp.{HOST}.{DEAD}.0123abcd"
    folder.mkdir()
    remove_abandoned(temporaries(tmp_path.iterdir()), others_after_s=86_400)
    assert sorted(tmp_path.iterdir()) == sorted([alive, other, folder])
    remove_abandoned(temporaries(tmp_path.iterdir()), others_after_s=0)
    assert sorted(tmp_path.iterdir()) == sorted([alive, folder])


def test_a_process_that_was_killed_leaves_what_the_next_one_removes(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from mobilellama.files.atomic import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "f")], check=False)
    (left,) = temporaries(tmp_path.iterdir())
    assert left.final == "f" and left.is_abandoned(others_after_s=86_400)
    remove_abandoned([left], others_after_s=86_400)
    assert list(tmp_path.iterdir()) == []


def test_what_ended_processes_left_is_removed_and_no_others(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    lives = os.getpid()
    writers = (f"{HOST}.{ended.pid}", f"{HOST}.{lives}", f"{HOST}.6", f"node7.{ended.pid}")
    paths = [tmp_path / f"f.tmp.{writer}.0123abcd" for writer in writers]
    for path in paths:
        path.touch()
    remove_of_processes(tmp_path.iterdir(), {ended.pid, lives})
    assert sorted(tmp_path.iterdir()) == sorted(paths[1:])
