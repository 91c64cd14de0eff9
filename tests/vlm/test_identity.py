"""The identity of a vision run."""

import json
import shutil
from pathlib import Path

import pytest

from mobilellama.run_folder import RunFolder
from mobilellama.vlm.identity import reading_identity


def test_a_run_knows_by_which_rules_its_records_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that began before there was more than one version of them goes on, and is warned."""
    assert reading_identity(RunFolder(tmp_path / "new"), "x") == {"data.reading_version": 2}
    made = Path(__file__).parents[1] / "fixtures/made_by_22bff75/see_run"
    old = Path(shutil.copytree(made, tmp_path / "old"))
    (receipt,) = old.glob("samples/train.json")
    with caplog.at_level("WARNING"):
        held = json.loads(receipt.read_text())["fingerprint"]
        assert reading_identity(RunFolder(old), held) == {}
        assert "read" not in caplog.text
        receipt.unlink()
        assert reading_identity(RunFolder(old), held) == {}
    assert "the run's samples are made again, by version 2 of the rules" in caplog.text
