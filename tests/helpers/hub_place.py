"""Lead huggingface_hub, where it is imported already, to a Hub on this machine."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from tests.pretrain.helpers.hub_server import LARGE, TOKEN, File, HubServer, Repository

Set = Callable[[object, str, Any], None]


def publish(hub: HubServer, name: str, folder: Path) -> str:
    """Put a folder's files on the Hub, as a new commit; return NAME@COMMIT."""
    files = {
        path.name: File(path.read_bytes(), lfs=bool(LARGE.search(path.name)))
        for path in folder.iterdir()
        if path.is_file()
    }
    if name in hub.repositories:
        hub.repositories[name].replace_files(files)
    else:
        hub.repositories[name] = Repository(files=files)
    repository = hub.repositories[name]
    return f"{name}@{repository.sha}"


def lead_to(url: str, home: Path, change: Set = setattr) -> None:
    """Make this process ask a Hub.

    Args:
        url: of the Hub.
        home: the folder of what is downloaded.
        change: sets an attribute; a test's own monkeypatch takes it back.
    """
    os.environ["HF_TOKEN"] = TOKEN
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    change(constants, "ENDPOINT", url)
    change(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    change(constants, "HF_HUB_CACHE", str(home))
    change(constants, "HF_HUB_OFFLINE", False)


def at_hub(url: str, home: Path, work: Callable[..., Any], *arguments: Any) -> Any:
    """Work as a rank that knows a Hub."""
    lead_to(url, home)
    return work(*arguments)
