"""Models by their names on the Hub, downloaded from a server on this machine by the real client."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.files.hub_folder import (
    ModelFolder,
    find_model,
    is_same_model,
    may_be_on_hub,
    name_on_hub,
    public_name,
)
from mobilellama.inputs import INIT
from tests.pretrain.helpers.hub_server import TOKEN, File, HubServer, Repository

FIND = """
import json, sys
from mobilellama.config import ConfigError
from mobilellama.files import hub_folder
from mobilellama.files.hub_folder import find_model
hub_folder._PAUSES_S = (0.01, 0.01)
try:
    offline_by = "--data" if "data" in sys.argv else None
    weights = "texts" not in sys.argv
    found = find_model(sys.argv[1], field="init", weights=weights, offline_by=offline_by)
    print(json.dumps([found.path, found.name]))
except ConfigError as error:
    print(json.dumps([f"error, {'final' if error.final else 'try again'}", str(error)]))
"""
COMMIT = "c0ffee0123" * 4
FILES = {
    "config.json": b"{}",
    "tokenizer.model": b"pieces",
    "model.safetensors": b"weights" * 1000,
    "pytorch_model.bin": b"the same weights",
    "flax_model.msgpack": b"and again",
    "modeling_own.py": b"raise SystemExit",
}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        files = {name: File(content, lfs=len(content) > 100) for name, content in FILES.items()}
        server.repositories["tester/tiny"] = Repository(files=files)
        yield server


def start(
    hub: HubServer, home: Path, value: str, *texts: str, **environment: str
) -> subprocess.Popen[str]:
    place = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    return subprocess.Popen(
        [sys.executable, "-c", FIND, value, *texts],
        env=os.environ | place | environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, _ = process.communicate(timeout=120)
    path, name = json.loads(out.splitlines()[-1])
    return path, name


def test_a_name_becomes_a_folder_of_one_commit_with_one_kind_of_weights(
    hub: HubServer, tmp_path: Path
) -> None:
    path, name = answer(start(hub, tmp_path, "tester/tiny"))
    assert name == f"tester/tiny@{hub.repositories['tester/tiny'].sha}"
    found = {file.name: file.read_bytes() for file in Path(path).iterdir()}
    wanted = ("config.json", "tokenizer.model", "model.safetensors")
    assert found == {file: FILES[file] for file in wanted}


def test_processes_that_start_together_wait_for_one_download(
    hub: HubServer, tmp_path: Path
) -> None:
    ranks = [start(hub, tmp_path, "tester/tiny") for _ in range(3)]
    assert len({answer(rank) for rank in ranks}) == 1
    assert len(hub.sent(r"GET /tester/tiny/resolve/.*/model.safetensors")) == 1


def test_offline_what_was_downloaded_is_found_and_what_was_not_is_told(
    hub: HubServer, tmp_path: Path
) -> None:
    first = answer(start(hub, tmp_path, "tester/tiny"))
    before = len(hub.requests)
    assert answer(start(hub, tmp_path, "tester/tiny", HF_HUB_OFFLINE="1")) == first
    assert answer(start(hub, tmp_path, first[1], HF_HUB_OFFLINE="1")) == first
    kind, message = answer(start(hub, tmp_path, "tester/other", HF_HUB_OFFLINE="1"))
    assert kind == "error, final"
    assert message.startswith(
        "init = tester/other: is no folder here, was not downloaded before, and HF_HUB_OFFLINE "
        "forbids asking the Hub. Give a folder"
    )
    assert len(hub.requests) == before


def test_a_connection_that_breaks_leads_to_the_cache_and_is_worth_a_retry(
    hub: HubServer, tmp_path: Path
) -> None:
    first = answer(start(hub, tmp_path, "tester/tiny"))
    hub.hang_up_on = "GET /api/models/"
    assert answer(start(hub, tmp_path, "tester/tiny")) == first
    kind, message = answer(start(hub, tmp_path, "tester/other"))
    assert (kind, f"{hub.url} cannot be reached" in message) == ("error, try again", True)


@pytest.mark.slow  # the client tries five times
def test_a_download_that_breaks_is_told_and_is_worth_a_retry(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.hang_up_on = ".*/tree/"
    kind, message = answer(start(hub, tmp_path, "tester/tiny"))
    assert (kind, "could not give it (Server disconnected" in message) == ("error, try again", True)


@pytest.mark.parametrize(
    ("status", "kind"), [(429, "try again"), (503, "try again"), (418, "final")]
)
def test_only_a_refusal_that_stays_is_final(
    hub: HubServer, tmp_path: Path, status: int, kind: str
) -> None:
    hub.refuse["GET /api/models/"] = status
    found, message = answer(start(hub, tmp_path, "tester/tiny"))
    assert found == f"error, {kind}"
    assert f"and {hub.url} could not give it" in message


def test_a_hub_that_is_asked_too_often_is_asked_again(hub: HubServer, tmp_path: Path) -> None:
    hub.refuse_first["GET /api/models/tester/tiny$"] = [429, 429]
    _, name = answer(start(hub, tmp_path, "tester/tiny"))
    assert name == f"tester/tiny@{hub.repositories['tester/tiny'].sha}"
    hub.refuse_first["GET /api/models/tester/tiny$"] = [503]  # a fault, not a full queue
    found, _ = answer(start(hub, tmp_path, "tester/tiny"))
    assert found == "error, try again"


def test_offline_a_download_that_broke_has_not_all_weights(tmp_path: Path) -> None:
    folder = tmp_path / "hub/models--tester--tiny/snapshots" / COMMIT
    folder.mkdir(parents=True)
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    place = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}

    def found() -> str:
        command = [sys.executable, "-c", FIND, f"tester/tiny@{COMMIT}"]
        done = subprocess.run(command, env=os.environ | place, capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1])[0]

    (folder / shards[0]).touch()
    assert found() == "error, final"  # a shard without the index
    index = {"weight_map": dict(zip("ab", shards, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert found() == "error, final"
    (folder / shards[1]).touch()
    assert found() == str(folder)


@pytest.mark.parametrize("value", ["a/b@../../x", "a/b@x/../y", "a/b@/etc/x", "a/b..c"])
def test_a_name_that_would_leave_the_cache_is_a_path(value: str) -> None:
    assert find_model(value, field="init") == ModelFolder(path=value, name=value)
    assert not may_be_on_hub(value)


def test_a_revision_is_looked_up_once_and_is_known_offline(hub: HubServer, tmp_path: Path) -> None:
    first = answer(start(hub, tmp_path, "tester/tiny@v1.0"))
    assert len(hub.sent(r"GET /api/models/tester/tiny/revision/[^/]*$")) == 1
    assert answer(start(hub, tmp_path, "tester/tiny@v1.0", HF_HUB_OFFLINE="1")) == first


def test_an_error_about_a_model_from_the_hub_names_it_and_not_the_cache() -> None:
    found = ModelFolder(path="/cache/models--a--b", name=f"a/b@{COMMIT}")
    with pytest.raises(ConfigError) as caught, found.errors_by_name():
        raise ConfigError("init", found.path, "is no model", "Give one")
    assert str(caught.value) == f"init = a/b@{COMMIT}: is no model. Give one."
    with pytest.raises(ConfigError) as caught, found.errors_by_name():
        raise ConfigError(f"{found.path}/config.json: model_type", "gan", "is unknown", "Give one")
    assert str(caught.value).startswith(f"a/b@{COMMIT}/config.json: model_type = gan: is unknown")
    with pytest.raises(ConfigError, match="vision = /clip: is no tower"), found.errors_by_name():
        raise ConfigError("vision", "/clip", "is no tower", "Give one")


def test_an_error_about_weights_names_the_model_first_and_then_where_its_files_are() -> None:
    cache = "/cache/models--a--b"
    found = ModelFolder(path=f"{cache}/snapshots/{COMMIT}", name=f"a/b@{COMMIT}")
    with pytest.raises(DataError) as caught, found.errors_by_name():
        raise DataError(f"{found.path}/model.safetensors: is damaged")
    assert str(caught.value) == (
        f"a/b@{COMMIT}/model.safetensors: is damaged. Its files are in {found.path}. "
        f"To download them again, remove {cache}"
    )
    for others in (found, ModelFolder(path="/clip", name="/clip")):
        with pytest.raises(DataError) as caught, others.errors_by_name():
            raise DataError("/clip: is damaged")
        assert str(caught.value) == "/clip: is damaged"


def test_a_name_that_the_hub_does_not_know_is_refused(hub: HubServer, tmp_path: Path) -> None:
    kind, message = answer(start(hub, tmp_path, "tester/none"))
    assert (kind, "is no folder here and no model at " + hub.url in message) == (
        "error, final",
        True,
    )


def test_a_flag_that_reads_the_cache_alone_is_named_in_the_error(
    hub: HubServer, tmp_path: Path
) -> None:
    kind, message = answer(start(hub, tmp_path, "tester/tiny", "data"))
    assert kind == "error, final" and not hub.requests
    assert message.startswith(
        "init = tester/tiny: is no folder here, was not downloaded before, and with --data nothing "
        "is downloaded. Give a folder"
    )
    first = answer(start(hub, tmp_path, "tester/tiny"))
    assert answer(start(hub, tmp_path, "tester/tiny", "data")) == first


@pytest.mark.parametrize("name", ["tester/tiny", "tester/tiny@v1.0"])
def test_the_command_that_the_error_names_fills_our_cache(
    hub: HubServer, tmp_path: Path, name: str
) -> None:
    _, message = answer(start(hub, tmp_path, name, HF_HUB_OFFLINE="1"))
    named = re.search(r"'hf (download [^']+)'", message)
    assert named
    hf = Path(sys.executable).with_name("hf")
    place = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN}
    environment = os.environ | place | {"HF_HUB_OFFLINE": "0"}
    subprocess.run([hf, *named[1].split()], env=environment, check=True, capture_output=True)
    path, _ = answer(start(hub, tmp_path, name, HF_HUB_OFFLINE="1"))
    assert (Path(path) / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_tokenizer_comes_without_weights_which_a_later_command_adds(
    hub: HubServer, tmp_path: Path
) -> None:
    path, name = answer(start(hub, tmp_path, "tester/tiny", "texts"))
    assert {file.name for file in Path(path).iterdir()} == {"config.json", "tokenizer.model"}
    kind, message = answer(start(hub, tmp_path, "tester/tiny", HF_HUB_OFFLINE="1"))
    assert (kind, "was not downloaded before" in message) == ("error, final", True)
    assert answer(start(hub, tmp_path, "tester/tiny", "texts", HF_HUB_OFFLINE="1"))[0] == path
    assert answer(start(hub, tmp_path, "tester/tiny")) == (path, name)
    assert (Path(path) / "model.safetensors").is_file()


def test_launch_and_the_resolver_take_the_same_values_for_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for value in ("runs/gone", "runs/gone@main", "chats/a.json", "one", "./a/b"):
        assert not may_be_on_hub(value)
        assert not find_model(value, field="init").is_from_hub  # and the Hub is not asked
        with pytest.raises(ConfigError, match="does not exist"):
            INIT.require(value)
    assert may_be_on_hub("mtgv/MobileLLaMA-1.4B@v1.0") and not may_be_on_hub("gpt2")
    assert may_be_on_hub("gpt2", owned=False) and may_be_on_hub("gpt2@a/b", owned=False)
    INIT.require("mtgv/MobileLLaMA-1.4B@v1.0")


def test_a_folder_of_that_name_wins_and_a_path_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tester/tiny").mkdir(parents=True)
    for value in ("tester/tiny", "/gone/far", "runs/of/mine", "./tester/none", "one"):
        assert find_model(value, field="init") == ModelFolder(path=value, name=value)


@pytest.mark.parametrize(
    ("value", "same"),
    [
        ("a/b", True),
        (f"a/b@{COMMIT}", True),
        ("a/b@v1.0", True),  # with which the run began
        ("a/b@main", False),
        ("a/c", False),
        ("/a/b", False),
    ],
)
def test_a_resume_knows_its_model_without_the_hub(value: str, same: bool) -> None:
    assert is_same_model(value, f"a/b@{COMMIT}", "v1.0") is same
    assert not is_same_model(value, "runs/a", None)


def test_other_machines_learn_the_name_on_the_hub_or_the_last_part_of_a_path() -> None:
    name = f"mtgv/MobileLLaMA-1.4B@{COMMIT}"
    assert name_on_hub(name) == "mtgv/MobileLLaMA-1.4B"
    assert public_name(name) == name
    for path in ("runs/a", "runs/a@v2", "/gone/a@v2"):
        assert name_on_hub(path) is None
        assert public_name(path) == Path(path).name
