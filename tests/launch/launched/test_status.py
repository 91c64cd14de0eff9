"""``launch status``: one launch, or the newest."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mobilellama.launch.folder import LaunchFolder
from mobilellama.launch.launched import status as command
from mobilellama.launch.launched.known import remember
from mobilellama.launch.launched.state import status_of
from mobilellama.launch.launched.status import Config, list_known
from mobilellama.launch.launched.table import describe
from tests.launch.helpers.launches import LOCAL, RUN, TASKS, launched, trained


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


def test_one_damaged_launch_does_not_hide_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("bad", "good"):
        folder = LaunchFolder(tmp_path / name, train=True)
        folder.create()
        folder.write(replace(LOCAL, folder=str(tmp_path / name), name=name))
        remember(tmp_path / name)
    (tmp_path / "bad" / "launch" / "launch.json").write_text("{")
    assert [status.name for status in list_known()] == ["good"]
    assert f"{tmp_path}/bad/launch/launch.json: is damaged" in caplog.text
