"""What the doctor's job does on one node: the clock that it asks, and its report."""

import json
import threading
import time
from pathlib import Path

import pytest

from mobilellama.files.atomic import write_json
from mobilellama.launch.doctor import node
from mobilellama.launch.doctor.report import ANSWER, QUESTION


def test_the_login_clock_lies_between_question_and_reading(tmp_path: Path) -> None:
    def answer() -> None:
        while not (tmp_path / QUESTION).exists():
            time.sleep(0.005)
        write_json(tmp_path / ANSWER, time.time() + 100.0)  # a clock that is 100 s ahead

    thread = threading.Thread(target=answer)
    thread.start()
    found = node.ask_login_clock(tmp_path)
    thread.join()
    assert found is not None
    least, most = found
    assert least <= 100.0 <= most and most - least < 10.0


def test_what_ends_a_stage_is_in_the_report_with_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"NNODES": "1", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    (tmp_path / "login").touch()
    assert node.main([str(tmp_path), "0"]) == 1
    report = json.loads((tmp_path / "rank-0.json").read_text())
    assert report["stage"] == "rendezvous" and report["unseen"] == []
    assert report["error"].startswith("KeyError: ") and "MASTER_ADDR" in report["error"]
    assert (tmp_path / "from-0").exists()
    assert "rendezvous: KeyError" in capsys.readouterr().err
