"""Logs of a launch: which one is shown, what is added to it, and which error was the first."""

import os
import pty
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mobilellama.config import ConfigError, UserError
from mobilellama.launch.folder import Job, Launch, LaunchFolder
from mobilellama.launch.launched import logs as command
from mobilellama.launch.launched.logs import (
    Config,
    Follower,
    first_error,
    is_over,
    log_file,
    starts,
)
from tests.helpers.pseudo_terminal import read_all

LAUNCH = Launch(
    step="pretrain",
    name="a",
    arguments=[],
    folder="/runs/a",
    cwd="/home/u",
    submitted="2026-01-01T00:00:00+00:00",
    tasks=0,
    jobs=[],
)


@pytest.fixture
def folder(tmp_path: Path) -> LaunchFolder:
    """A run's launch folder, with no start yet."""
    folder = LaunchFolder(tmp_path / "a", train=True)
    folder.create()
    folder.write(LAUNCH)
    return folder


def start(folder: LaunchFolder, name: str, *, begun_s: int, **ranks: str) -> Path:
    """The log folder of a start that began then; ``r3`` is the log of rank 3."""
    path = folder.logs / name
    path.mkdir()
    (path / "environment").touch()
    os.utime(path / "environment", (begun_s, begun_s))
    for rank, text in ranks.items():
        (path / f"rank-{rank.removeprefix('r')}.log").write_text(text)
    return path


def test_starts_are_in_the_order_in_which_they_began(folder: LaunchFolder) -> None:
    """Not in that of names, nor of later writes: job 9 was the first, and 10 came after it."""
    names = ["9.0", "9.1", "9.2", "9.10", "10.0", "7_3.0"]
    for begun_s, name in enumerate(names, start=1000):
        start(folder, name, begun_s=begun_s)
    (folder.logs / "9.0/rank-0.log").write_text("written late")
    for other in ("batch-9.log", "10.1"):
        (folder.logs / other).touch()
    (folder.logs / "health").mkdir()
    assert [path.name for path in starts(folder)] == names


def test_a_start_that_has_written_nothing_yet_is_the_oldest(folder: LaunchFolder) -> None:
    (folder.logs / "9.11").mkdir()
    (folder.logs / "9.2").mkdir()
    start(folder, "9.0", begun_s=1000)
    assert [path.name for path in starts(folder)] == ["9.2", "9.11", "9.0"]


def test_where_there_are_no_logs_there_are_no_starts(tmp_path: Path) -> None:
    assert starts(LaunchFolder(tmp_path / "none", train=False)) == []


@pytest.mark.parametrize(
    ("rank", "start_name", "shown"),
    [
        ("0", None, "9.1/rank-0.log"),
        ("3", None, "9.0/rank-3.log"),  # the newest start's rank 3 has not begun
        ("0", "9.0", "9.0/rank-0.log"),
        ("3", "9.1", None),
        ("7", None, None),
        ("0", "9.7", None),
        ("batch", None, "batch-9.log"),
    ],
)
def test_the_log_of_a_process_is_that_of_its_newest_start(
    folder: LaunchFolder, rank: str, start_name: str | None, shown: str | None
) -> None:
    start(folder, "9.0", begun_s=1000, r0="a", r3="b", r12="c")
    start(folder, "9.1", begun_s=2000, r0="d")
    for number, written_s in (("9", 2000), ("10", 1000)):
        (folder.logs / f"batch-{number}.log").touch()
        os.utime(folder.logs / f"batch-{number}.log", (written_s, written_s))
    expected = folder.logs / shown if shown else None
    assert log_file(folder, rank=rank, start=start_name) == expected


def test_what_is_added_is_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    shown = Follower(path)
    shown.print_new()
    assert capsys.readouterr().out == ""  # it is not there yet
    with open(path, "w") as file:
        for text in ("step 1\n", "step", " 2\nst", "ep 3\n"):
            file.write(text)
            file.flush()
            shown.print_new()
        shown.print_new()
    assert capsys.readouterr().out == "step 1\nstep 2\nstep 3\n"


def test_in_a_terminal_long_lines_are_broken_between_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pty.openpty()
    path = tmp_path / "log"
    path.touch()
    with os.fdopen(writer, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        patch.setenv("COLUMNS", "20")
        shown = Follower(path)
        for text in ("a line of over twenty letters\nwith an", " end\nand some more of twenty\n"):
            with open(path, "a") as file:
                file.write(text)
            shown.print_new()
    assert read_all(reader) == (
        "a line of over\n    twenty letters\nwith an end\nand some more of\n    twenty\n"
    )


def test_bytes_that_are_no_text_are_shown_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").write_bytes(b"a\xffb\r\n")
    Follower(tmp_path / "log").print_new()
    assert capsys.readouterr().out == "a\ufffdb\r\n"


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (1, "c"),
        (2, "b\nc"),
        (9, "a\nb\nc"),
        (None, "a\nb\nc"),
    ],
)
def test_only_the_last_lines_are_shown_at_first_and_then_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: int | None, shown: str
) -> None:
    path = tmp_path / "log"
    path.write_text("a\nb\nc")
    follower = Follower(path, last_lines=lines)
    follower.print_new()
    assert capsys.readouterr().out == shown
    with open(path, "a") as file:
        file.write("\nd\ne\nf\n")
    follower.print_new()
    assert capsys.readouterr().out == "\nd\ne\nf\n"


OTHER = "mobilellama: error: data: another rank found a bad bucket"
NCCL = "torch.distributed.DistBackendError: NCCL error in: x.cpp:1, remote process exited"
STORE = "torch.distributed.DistNetworkError: failed to recv, got 0 bytes"
LOST = "mobilellama: error: [rank 1 on n1] the connection to another rank is lost"


@pytest.mark.parametrize(
    ("ranks", "error"),
    [
        ({}, None),
        ({"r0": "step 1\nno Error here\n  ValueError: inside\n"}, None),
        ({"r0": "step 1\nValueError: bad\nKeyError: 3\n"}, "ValueError: bad"),
        ({"r0": "mobilellama: error: bad\n"}, "mobilellama: error: bad"),
        ({"r0": "torch.OutOfMemoryError: CUDA\n"}, "torch.OutOfMemoryError: CUDA"),
        ({"r0": "some.library.Exception\n"}, "some.library.Exception"),
        ({"r0": f"{OTHER}\n", "r1": "mobilellama: error: bad\n"}, "mobilellama: error: bad"),
        ({"r0": f"{LOST}\n", "r1": "step 1\n"}, LOST),
        ({"r0": f"{LOST}\n", "r1": f"{LOST}\nRuntimeError: x\n"}, "RuntimeError: x"),
        ({"r0": f"{LOST}\nRuntimeError: x\n", "r1": "KeyError: y\n"}, "RuntimeError: x"),
        ({"r0": f"{NCCL}\n", "r1": "torch.OutOfMemoryError: x\n"}, "torch.OutOfMemoryError: x"),
        ({"r0": f"{NCCL}\n", "r1": "step 1\n"}, NCCL),
        ({"r0": f"{STORE}\n", "r1": "KeyError: y\n"}, "KeyError: y"),
        ({"r0": f"ValueError: {'x' * 600}\n"}, f"ValueError: {'x' * 488}"),
    ],
)
def test_the_first_error_is_a_cause_rather_than_a_lost_connection(
    folder: LaunchFolder, ranks: dict[str, str], error: str | None
) -> None:
    assert first_error(start(folder, "9.0", begun_s=1000, **ranks)) == error


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("rank", ["-1", "first", "1.0", ""])
def test_what_is_no_process_is_refused(rank: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(run="a", rank=rank)
    assert str(caught.value) == (
        f"rank = {rank}: is not a process. Give the number of a process, or batch."
    )


def test_where_there_is_nothing_to_show_it_is_said_why(folder: LaunchFolder) -> None:
    run = str(folder.made)
    assert refused(lambda: command.main(Config(run=run))) == (
        f"{folder.logs}: holds no log of rank 0 yet. Has the job begun? See 'launch status'"
    )
    assert refused(lambda: command.main(Config(run=run, start="9.0"))) == (
        f"{folder.logs}: holds no start 9.0; there are none yet"
    )
    start(folder, "9.0", begun_s=1000)
    start(folder, "9.1", begun_s=1001)
    assert refused(lambda: command.main(Config(run=run, start="9.7"))) == (
        f"{folder.logs}: holds no start 9.7; there are 9.0, 9.1"
    )
    assert refused(lambda: command.main(Config(run=run, start="9.0", rank="3"))) == (
        f"{folder.logs}: holds no log of rank 3 yet. Has the job begun? See 'launch status'"
    )
    folder.write(replace(LAUNCH, jobs=[Job(part="run", id="9", script="job.sbatch")]))
    assert refused(lambda: command.main(Config(run=run, rank="batch"))) == (
        f"{folder.logs}: holds no log of rank batch yet. Has the job begun? See 'launch status'"
    )


def test_a_log_is_printed(folder: LaunchFolder, capsys: pytest.CaptureFixture[str]) -> None:
    start(folder, "9.0", begun_s=1000, r0="step 1\nstep 2\n", r1="other\n")
    assert command.main(Config(run=str(folder.made))) == 0
    assert capsys.readouterr().out == "step 1\nstep 2\n"
    assert command.main(Config(run=str(folder.made), lines=1)) == 0
    assert capsys.readouterr().out == "step 2\n"
    assert command.main(Config(run=str(folder.made), rank="1")) == 0
    assert capsys.readouterr().out == "other\n"


def test_a_followed_log_ends_with_the_job(
    folder: LaunchFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho JobId=7 JobState=COMPLETED\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(command, "_POLL_S", 0.01)
    monkeypatch.setattr(command, "_ASK_SLURM_EVERY_S", 0.02)
    folder.write(replace(LAUNCH, jobs=[Job(part="run", id="7", script="job.sbatch")]))
    path = start(folder, "7.0", begun_s=1000, r0="step 1\n") / "rank-0.log"
    run = str(folder.made)
    assert command.main(Config(run=run, follow=True)) == 0
    assert capsys.readouterr().out == (
        f"step 1\n--- it is over; see 'mobilellama launch status {run}'\n"
    )
    path.unlink()
    assert command.main(Config(run=run, follow=True)) == 0  # waits for one that may yet come
    assert capsys.readouterr().out == f"--- it is over; see 'mobilellama launch status {run}'\n"


def test_a_local_run_is_over_when_its_command_is(folder: LaunchFolder) -> None:
    with folder.submitting():
        assert not is_over(folder, LAUNCH)
    assert is_over(folder, LAUNCH)


def test_it_is_said_which_logs_a_local_step_has(folder: LaunchFolder, tmp_path: Path) -> None:
    export = LaunchFolder(tmp_path / "model", train=False)
    export.create()
    export.write(replace(LAUNCH, step="export"))
    said = "holds no such log. By --local, only the processes of a training have logs"
    asked = Config(run=str(export.made))
    assert refused(lambda: command.main(asked)) == f"{export.logs}: {said}"
    asked = Config(run=str(folder.made), rank="batch")
    assert refused(lambda: command.main(asked)) == f"{folder.logs}: {said}"


def test_a_letter_that_comes_in_two_parts_is_shown_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, letter = tmp_path / "rank-0.log", "é".encode()
    follower = Follower(path)
    for part in (b"caf" + letter[:1], letter[1:] + b"\n"):
        with open(path, "ab") as file:
            file.write(part)
        follower.print_new()
    assert capsys.readouterr().out == "café\n"


@pytest.mark.parametrize("lines", [0, -1])
def test_no_lines_are_no_number_of_lines(lines: int) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        Config(run="a", lines=lines)
