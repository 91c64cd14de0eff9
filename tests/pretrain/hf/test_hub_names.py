"""All ranks and all starts of a run take the same commit of a model that is named on the Hub."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.distributed import OtherRankError, Ranks
from mobilellama.distributed_config import DistributedConfig
from mobilellama.files.hub_folder import FindModel, ModelFolder
from mobilellama.pretrain.hf.hub_names import HUB, commits_of, open_on_all
from mobilellama.run_folder import RunFolder
from tests.helpers.hub_place import at_hub, lead_to
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.hub_server import TOKEN, File, HubServer, Repository

NAME = "tester/tiny"
ASKED = rf"GET /api/models/{NAME}$"
WEIGHTS = rf"GET /{NAME}/resolve/.*/model.safetensors"


def files(weights: bytes) -> dict[str, File]:
    return {
        "config.json": File(b"{}", lfs=False),
        "model.safetensors": File(weights, lfs=True),
    }


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.repositories[NAME] = Repository(files=files(b"first"))
        yield server


@pytest.fixture
def here(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The Hub, which this process asks."""
    monkeypatch.setenv("HF_TOKEN", "")
    lead_to(hub.url, tmp_path / "cache", monkeypatch.setattr)
    return hub


def found_alone(value: str, run: Path) -> tuple[ModelFolder, dict[str, str]]:
    """Find a model as a run of one process does."""
    ranks = Ranks(DistributedConfig(accelerator="cpu"))
    return open_on_all(ranks, RunFolder(run), [value], lambda find: find(value, field="init"))


def begin(run: Path, commits: dict[str, str]) -> None:
    """Write an attempt that took commits."""
    folder = RunFolder(run)
    folder.create()
    folder.begin_attempt({HUB: commits})


def test_the_name_and_its_commit_are_returned_for_the_attempts_file(
    here: HubServer, tmp_path: Path
) -> None:
    name = f"{NAME}@{here.repositories[NAME].sha}"
    found, commits = found_alone(NAME, tmp_path / "run")
    assert (found.name, commits) == (name, {NAME: name})
    assert (Path(found.path) / "model.safetensors").read_bytes() == b"first"
    begin(tmp_path / "run", commits)
    assert commits_of(RunFolder(tmp_path / "run")) == commits


def test_a_start_before_the_first_checkpoint_takes_the_commit_of_the_former_attempt(
    here: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    _, first = found_alone(NAME, tmp_path / "run")
    begin(tmp_path / "run", first)
    begin(tmp_path / "run", {})  # a start that was killed early, or that named no model
    here.repositories[NAME].replace_files(files(b"second"))
    found, commits = found_alone(NAME, tmp_path / "run")
    assert (found.name, commits) == (first[NAME], first)
    assert (Path(found.path) / "model.safetensors").read_bytes() == b"first"
    assert f"init = {NAME}: the run began with {first[NAME]}, and goes on with it" in caplog.text
    newest = f"{NAME}@{here.repositories[NAME].sha}"
    others = ((NAME, tmp_path / "other"), (f"{NAME}@main", tmp_path / "run"))
    for value, run in others:  # a run of its own, and another revision
        assert found_alone(value, run)[0].name == newest != first[NAME]


def test_the_former_commit_is_downloaded_again_where_the_cache_lost_it(
    here: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, commits = found_alone(NAME, tmp_path / "run")
    begin(tmp_path / "run", commits)
    here.repositories[NAME].replace_files(files(b"second"))
    lead_to(here.url, tmp_path / "new_cache", monkeypatch.setattr)
    again, _ = found_alone(NAME, tmp_path / "run")
    assert again.name == found.name
    assert (Path(again.path) / "model.safetensors").read_bytes() == b"first"
    assert not (tmp_path / "new_cache/models--tester--tiny/refs/main").exists()  # it is newer


def test_a_commit_that_the_hub_has_no_longer_is_told_with_the_remedy(
    here: HubServer, tmp_path: Path
) -> None:
    begin(tmp_path / "run", {NAME: f"{NAME}@{'ab' * 20}"})
    here.refuse_as["GET /api/models/"] = "RevisionNotFound"
    with pytest.raises(ConfigError) as caught:
        found_alone(NAME, tmp_path / "run")
    assert str(caught.value) == (
        f"init = {NAME}: was commit {'ab' * 20} at an earlier start, which {NAME} no longer has. "
        "Name another revision, OWNER/NAME@REVISION, or give another run.folder."
    )


def test_a_path_is_opened_as_it_is_and_a_folder_of_that_name_wins(
    here: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(tmp_path / "run", {NAME: f"{NAME}@{'ab' * 20}"})
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    for value in (NAME, "run/gone", "/gone", str(tmp_path)):
        found, commits = found_alone(value, tmp_path / "run")
        assert (found, commits) == (ModelFolder(path=value, name=value), {})
    assert not here.requests


def find_as_rank(value: str, run: Path) -> tuple[str, str, dict[str, str]] | str:
    """Find a model as one of a run's ranks."""
    size = int(os.environ["LOCAL_WORLD_SIZE"])
    ranks = Ranks(DistributedConfig(accelerator="cpu", devices=size))

    def open_with(find: FindModel) -> ModelFolder:
        return find(value, field="init")

    try:
        found, commits = open_on_all(ranks, RunFolder(run), [value], open_with)
    except (ConfigError, OtherRankError) as error:
        return f"{type(error).__name__}: {error}"
    assert ranks.join().any(False) is False  # the ranks are in step
    return found.path, found.name, commits


def find_as_node(url: str, caches: Path, value: str, run: Path) -> object:
    """Find a model as the only rank of a node, which has a cache of its own."""
    rank = os.environ["RANK"]
    os.environ.update(LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", GROUP_RANK=rank)
    return at_hub(url, caches / rank, find_as_rank, value, run)


@pytest.mark.slow
def test_the_ranks_of_a_node_take_one_answer_and_one_download(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.refuse_first[ASKED] = [429]  # asked again by the one that asks
    found = run_ranks(at_hub, 3, hub.url, tmp_path / "cache", find_as_rank, NAME, tmp_path / "run")
    name = f"{NAME}@{hub.repositories[NAME].sha}"
    assert found == [found[0]] * 3
    assert found[0][1:] == (name, {NAME: name})
    assert len(hub.sent(ASKED)) == 2 and len(hub.sent("GET /api/models/.*/revision/")) <= 1
    assert len(hub.sent(WEIGHTS)) == 1


@pytest.mark.slow
def test_a_node_with_a_cache_of_its_own_downloads_the_commit_of_rank_0(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.then[WEIGHTS] = lambda: hub.repositories[NAME].replace_files(files(b"second"))
    name = f"{NAME}@{hub.repositories[NAME].sha}"
    found = run_ranks(find_as_node, 2, hub.url, tmp_path, NAME, tmp_path / "run")
    assert hub.repositories[NAME].files == files(b"second")  # a commit came in between
    assert [its[1:] for its in found] == [(name, {NAME: name})] * 2
    for rank, (path, *_) in enumerate(found):
        assert Path(path).is_relative_to(tmp_path / str(rank))
        assert (Path(path) / "model.safetensors").read_bytes() == b"first"
    assert len(hub.sent(ASKED)) == 1 and len(hub.sent(WEIGHTS)) == 2


@pytest.mark.slow
def test_a_name_that_is_not_there_is_told_by_rank_0_alone(hub: HubServer, tmp_path: Path) -> None:
    place = (hub.url, tmp_path / "cache", find_as_rank)
    first, second = run_ranks(at_hub, 2, *place, "tester/none", tmp_path / "run")
    assert first.startswith("ConfigError: init = tester/none: is no folder here and no model at")
    assert second == "OtherRankError: another rank failed; see the message of rank 0"
    assert len(hub.sent("GET /api/models/tester/none")) == 1


SCRIPT = """
import json, sys
from pathlib import Path
from mobilellama.distributed import Ranks
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain.hf.hub_names import open_on_all
from mobilellama.run_folder import RunFolder

name, folder = sys.argv[1:]
ranks = Ranks(DistributedConfig(accelerator="cpu", devices=2))
found, commits = open_on_all(
    ranks, RunFolder(folder), [name], lambda find: find(name, field="init")
)
world = ranks.join()
Path(folder, str(world.rank)).write_text(json.dumps([found.path, found.name, commits]))
assert world.sum([1.0]) == [2.0]
"""


@pytest.mark.slow
def test_a_process_tells_the_ranks_that_it_starts_itself(hub: HubServer, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    place = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN}
    command = [sys.executable, str(script), NAME, str(tmp_path)]
    environment = os.environ | place | {"HF_HUB_OFFLINE": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / rank).read_text()) for rank in "01")
    name = f"{NAME}@{hub.repositories[NAME].sha}"
    assert first == second and first[1:] == [name, {NAME: name}]
    assert len(hub.sent(ASKED)) == 1 and len(hub.sent(WEIGHTS)) == 1
