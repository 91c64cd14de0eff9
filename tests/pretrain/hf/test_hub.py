"""Pushing to a Hub, with the real client against a server on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mobilellama.pretrain.main import main
from tests.helpers.ranks import free_port
from tests.pretrain.conftest import LoadAlone
from tests.pretrain.helpers.hub_server import TOKEN, HubServer

TEXTS = ["Hello world", " lead", "a  b   c"]


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export in shards."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    arguments = ["--checkpoint", str(tiny_run), "--output", str(folder), "--check", "false"]
    assert main(["export", *arguments, "--max_shard_size_gb", "1e-4"]) == 0
    return folder


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A Hub at which 'tester' may write, and where 'someone' exists."""
    with HubServer(owners=("tester", "someone")) as server:
        yield server


Client = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """Runs ``mobilellama pretrain ARGUMENTS`` in a process that knows the server by its URL."""

    def run(url: str, *arguments: str | Path, **environment: str) -> Any:
        return subprocess.run(
            [sys.executable, "-m", "mobilellama", "pretrain", *map(str, arguments)],
            env=os.environ | hub_environment(url, tmp_path) | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def hub_environment(url: str, home: Path) -> dict[str, str]:
    """Return what leads huggingface_hub to a server, as a user with a token."""
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home / "hf_home"),
        "HF_TOKEN": TOKEN,
        # Large files go to the server itself, not through the separate xet storage.
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
    }


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_pushed_and_loaded_back_it_is_the_same_model(
    hub: HubServer, client: Client, exported: Path, load_alone: LoadAlone, tmp_path: Path
) -> None:
    done = client(hub.url, "push", "--folder", exported, "--repo", "tester/tiny", "--private")
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/tester/tiny: pushed {exported}" in done.stdout
    repository = hub.repositories["tester/tiny"]
    assert repository.private
    assert {name: file.content for name, file in repository.files.items()} == files_of(exported)

    environment = hub_environment(hub.url, tmp_path)
    remote = load_alone("tester/tiny", texts=TEXTS, environment=environment)["tester/tiny"]
    local = load_alone(exported, texts=TEXTS)[str(exported)]
    assert remote == local

    uploads, commits = hub.sent("PUT"), hub.sent("POST .*/commit/")
    again = client(hub.url, "push", "--folder", exported, "--repo", "tester/tiny", "--private")
    assert again.returncode == 0 and "had these files already" in again.stdout
    assert (hub.sent("PUT"), hub.sent("POST .*/commit/")) == (uploads, commits)


@pytest.mark.slow
def test_export_pushes_what_it_wrote_and_takes_away_a_former_exports_shards(
    hub: HubServer, client: Client, exported: Path, tiny_run: Path, tmp_path: Path
) -> None:
    assert client(hub.url, "push", "--folder", exported, "--repo", "tester/tiny").returncode == 0
    repository = hub.repositories["tester/tiny"]
    assert not repository.private and "model.safetensors.index.json" in repository.files
    output = tmp_path / "out"
    done = client(
        hub.url, "export", "--checkpoint", tiny_run, "--output", output, "--check", "false",
        "--push", "tester/tiny",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # transformers takes model.safetensors or an index, whichever it finds first.
    assert {name: file.content for name, file in repository.files.items()} == files_of(output)


def problem(done: subprocess.CompletedProcess[str], folder: Path, repo: str) -> str:
    """Check that a push failed as it should; return its one message."""
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (message,) = done.stderr.split("mobilellama: error: ")[1:]
    assert f"The local folder {folder} is whole; push it with" in message
    assert f"mobilellama pretrain push {folder} --repo {repo}" in message
    return message


def test_refusals_of_the_server_are_told(hub: HubServer, client: Client, exported: Path) -> None:
    before = files_of(exported)

    def message(repo: str, **environment: str) -> str:
        done = client(hub.url, "push", "--folder", exported, "--repo", repo, **environment)
        return problem(done, exported, repo)

    assert "wants a token, but there is none; log in" in message("tester/a", HF_TOKEN="")
    assert "refused the token; log in" in message("tester/a", HF_TOKEN="hf_wrong")
    assert "the token may not write to 'someone'" in message("someone/a")
    assert "has no 'nobody/a', and no owner 'nobody'" in message("nobody/a")
    assert hub.repositories == {}
    assert "HF_HUB_OFFLINE or" in message("tester/a", HF_HUB_OFFLINE="1")
    assert files_of(exported) == before


def test_a_broken_connection_is_told_and_the_same_push_goes_on(
    hub: HubServer, client: Client, exported: Path
) -> None:
    before = files_of(exported)
    push = ("push", "--folder", exported, "--repo", "tester/tiny")
    nobody = f"http://127.0.0.1:{free_port()}"
    message = problem(client(nobody, *push), exported, "tester/tiny")
    assert f"push to {nobody}/tester/tiny: the connection failed (" in message

    hub.hang_up_on = "POST .*/commit/"
    message = problem(client(hub.url, *push), exported, "tester/tiny")
    assert "the connection failed (Server disconnected" in message
    uploads = hub.sent("PUT")
    assert len(uploads) == len(list(exported.glob("*.safetensors"))) + 1  # tokenizer.model

    hub.hang_up_on = None
    assert client(hub.url, *push).returncode == 0
    assert hub.sent("PUT") == uploads, "nothing large is sent twice"
    assert files_of(exported) == before


@pytest.mark.slow
def test_an_export_whose_push_fails_stays(
    hub: HubServer, client: Client, tiny_run: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    done = client(
        hub.url, "export", "--checkpoint", tiny_run, "--output", output, "--check", "false",
        "--push", "someone/tiny", "--private",
    )  # fmt: skip
    message = problem(done, output, "someone/tiny")
    assert message.rstrip().endswith("--repo someone/tiny --private")
    assert json.loads((output / "config.json").read_text())["model_type"] == "llama"


def test_private_is_refused_where_the_repository_is_public_already(
    hub: HubServer, client: Client, exported: Path
) -> None:
    push = ("push", "--folder", exported, "--repo", "tester/tiny")
    assert client(hub.url, *push).returncode == 0
    commits = hub.sent("POST .*/commit/")
    done = client(hub.url, *push, "--private")
    assert done.returncode == 2
    assert "private = true: tester/tiny exists already and is public" in done.stderr
    assert hub.sent("POST .*/commit/") == commits


def test_a_folder_that_is_no_export_is_refused(client: Client, tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    done = client("http://127.0.0.1:9", "push", "--folder", tmp_path, "--repo", "a/b")
    assert done.returncode == 2
    assert "it has no config.json and no tokenizer.json" in done.stderr
