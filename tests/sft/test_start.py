"""What a finetuning run starts from; a resume takes it from the run."""

import shutil
from pathlib import Path

import pytest

from mobilellama.run_folder import RunFolder
from mobilellama.run_record import Origin
from mobilellama.sft.start import open_start
from tests.helpers.hub_place import lead_to, publish
from tests.pretrain.helpers.hub_server import HubServer

MADE = Path(__file__).parents[1] / "fixtures/made_by_22bff75"


def test_a_folder_that_has_gone_since_the_run_began_is_not_sought_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    run = RunFolder(shutil.copytree(MADE / "chat_run", tmp_path / "run"))
    with HubServer() as hub:
        publish(hub, "out/model", MADE / "model")
        lead_to(hub.url, tmp_path / "cache", monkeypatch.setattr)
        start = open_start("out/model", run)  # as the run's command was; OWNER/NAME by its form
    assert start.origin == Origin(init="out/model")
    assert start.weights is None
    assert hub.requests == []
    assert "a resume needs no --init: out/model no longer exists" in caplog.text
