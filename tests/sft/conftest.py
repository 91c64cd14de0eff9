"""What the tests of this stage share: the command in this process, a chat folder."""

from pathlib import Path
from typing import Any

import pytest

from tests.pretrain.conftest import command
from tests.sft.helpers.conversations import make_conversations, write_lines, write_sharegpt
from tests.sft.helpers.preparing import NAMES, hello, prepare
from tests.sft.helpers.tiny_chat_model import write_tiny_chat_model

__all__ = ["command"]


@pytest.fixture(scope="session")
def tiny_chat_model(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat folder with a random LLaMA of two layers, 256 tokens of context; read only."""
    import torch

    torch.set_num_threads(1)  # so small a model gains nothing from more
    return write_tiny_chat_model(tmp_path_factory.mktemp("chat_model") / "tiny", small_tokenizer)


@pytest.fixture(scope="session")
def records() -> dict[str, list[Any]]:
    """Three files' records, one in twenty of them bad."""
    made: dict[str, list[Any]] = {}
    for seed, name in enumerate(NAMES):
        made[name] = make_conversations(60, seed=seed, scale=0.08)
        made[name][7] = hello(gpt="")
        made[name][20] = {"text": "no conversation"}
        made[name][40]["conversations"].insert(0, {"from": "gpt", "value": "Cut off."})
    return made


@pytest.fixture(scope="session")
def conversations(records: dict[str, list[Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conversations") / "data"
    for name, those in records.items():
        (write_sharegpt if name.endswith(".json") else write_lines)(folder / name, those)
    return folder


@pytest.fixture(scope="session")
def prepared(
    conversations: Path, small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("prepared") / "dataset"
    more = ("--heldout_share", "0.1")
    assert prepare(small_tokenizer, conversations, output, *more) == 0
    return output
