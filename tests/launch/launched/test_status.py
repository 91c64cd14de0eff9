"""``launch status``: one launch, or the newest."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mobilellama.launch.folder import Job, LaunchFolder
from mobilellama.launch.launched import status as command
from mobilellama.launch.launched.known import known, remember
from mobilellama.launch.launched.state import status_of
from mobilellama.launch.launched.status import Config, list_known
from mobilellama.launch.launched.table import describe
from tests.launch.helpers.launches import LOCAL, RUN, TASKS, launched, mark, trained


def test_the_status_is_printed_as_text_and_as_json(
    tmp_path: Path, says: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = launched(tmp_path, RUN)
    trained(folder)
    says(job7="JobState=RUNNING NodeList=n1 Restarts=1")
    assert command.main(Config(run=str(folder.made))) == 0
    assert capsys.readouterr().out == f"{describe(status_of(folder, RUN), folder)}\n"
    assert command.main(Config(run=str(folder.made), json=True)) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["name"], shown["folder"]) == ("running", "1_4b", str(folder.made))
    assert shown["parts"] == [
        {
            "part": "run",
            "job": "7",
            "state": "running",
            "reason": "",
            "nodes": "n1",
            "restarts": 1,
        }
    ]
    assert shown["progress"]["step"] == 100


def test_without_a_run_the_newest_launches_that_are_still_there_are_listed(
    tmp_path: Path,
    says: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert command.main(Config()) == 0
    assert capsys.readouterr().out == (
        "nothing was launched yet; see 'mobilellama launch --help'\n"
    )
    for launch in (RUN, TASKS):
        remember(launched(tmp_path, launch).made)
    remember(tmp_path / "removed since")
    remember(tmp_path / RUN.name)  # launched again
    assert command.main(Config(json=True)) == 0
    assert [shown["name"] for shown in json.loads(capsys.readouterr().out)] == ["red", "1_4b"]
    assert command.main(Config()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "red", "1_4b"]


def test_what_ended_over_a_week_ago_is_hidden_and_counted(
    tmp_path: Path, says: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["long ago", "lately", "still runs"]
    for name, job in zip(names, ("7", "8", "9"), strict=True):
        launch = replace(RUN, name=name, jobs=[Job(part="run", id=job, script="job.sbatch")])
        folder = launched(tmp_path, launch)
        mark(folder, run_finished=launch.signature)
        if name != "lately":
            for path in folder.root.iterdir():
                if path.is_file():
                    os.utime(path, (0, time.time() - 8 * 86_400))
        remember(folder.made)
    says(job9="JobState=RUNNING NodeList=n1")
    assert command.main(Config()) == 0
    *shown, blank, last = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in shown] == ["run", "lately", "still runs"]
    assert blank == "" and last == (
        "1 that ended over a week ago: see 'mobilellama launch status --all'"
    )
    assert command.main(Config(all=True)) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in shown] == ["run", *names]
    assert command.main(Config(json=True)) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3


def test_nothing_is_hidden_while_slurm_does_not_answer(
    tmp_path: Path, says: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = launched(tmp_path, RUN)
    for path in folder.root.iterdir():
        if path.is_file():
            os.utime(path, (0, time.time() - 8 * 86_400))
    remember(folder.made)
    says(job7="JobState=PENDING Reason=Priority")
    assert command.main(Config()) == 0
    assert " pending " in capsys.readouterr().out
    controller = tmp_path / "bin" / "scontrol"
    controller.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    assert command.main(Config()) == 0
    shown = capsys.readouterr().out
    assert " unknown " in shown and "week ago" not in shown


def test_older_launches_than_the_newest_are_counted_and_all_and_json_show_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(22):
        folder = LaunchFolder(tmp_path / f"run{i}", train=True)
        folder.create()
        folder.write(replace(LOCAL, folder=str(folder.made), name=f"run{i}"))
        remember(folder.made)
    assert command.main(Config()) == 0
    *shown, _, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["run", *(f"run{i}" for i in range(2, 22))]
    assert last == "2 launched earlier: see 'mobilellama launch status --all'"
    assert command.main(Config(all=True)) == 0
    assert len(capsys.readouterr().out.splitlines()) == 23
    assert command.main(Config(json=True)) == 0
    assert len(json.loads(capsys.readouterr().out)) == 22


def launch_a_bad_and_a_good_one(tmp_path: Path) -> None:
    for name in ("bad", "good"):
        folder = LaunchFolder(tmp_path / name, train=True)
        folder.create()
        folder.write(replace(LOCAL, folder=str(tmp_path / name), name=name))
        remember(tmp_path / name)


def test_one_damaged_launch_does_not_hide_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launch_a_bad_and_a_good_one(tmp_path)
    (tmp_path / "bad" / "launch" / "launch.json").write_text("{")
    assert [status.name for status in list_known(known(), [])] == ["good"]
    assert f"{tmp_path}/bad/launch/launch.json: is damaged" in caplog.text


def test_one_launch_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launch_a_bad_and_a_good_one(tmp_path)
    # Reading a folder as a file fails for every user, as a file that is another user's does.
    (tmp_path / "bad" / "launch" / "run.failed").mkdir()
    remember(tmp_path / ("x" * 300))  # no file system takes such a name
    assert [status.name for status in list_known(known(), [])] == ["good"]
    assert f"{tmp_path}/bad/launch/run.failed" in caplog.text
