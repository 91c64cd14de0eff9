"""What the tests of using a vision-language model share: the command, a folder, images."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mobilellama.vlm.chat.assistant import Assistant, load
from tests.pretrain.conftest import command
from tests.vlm.helpers.assistants import make_assistant, write_pictures
from tests.vlm.helpers.image_site import Site

__all__ = ["command"]


@pytest.fixture(scope="session")
def assistant_folder(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision-language model's folder in our form; read only. See ``make_assistant``."""
    torch.set_num_threads(1)  # so small a model gains nothing from more
    return make_assistant(tmp_path_factory.mktemp("assistant"), small_tokenizer)


@pytest.fixture(scope="module")
def assistant(assistant_folder: Path) -> Assistant:
    """The model of that folder, on the CPU."""
    return load(assistant_folder, device="cpu")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with eight images, 0.png to 7.png; read only."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, 8)
    return folder


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Site()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
