"""What the tests of this stage share: the command in this process, a chat folder."""

from pathlib import Path

import pytest

from tests.pretrain.conftest import command
from tests.sft.helpers.tiny_chat_model import write_tiny_chat_model

__all__ = ["command"]


@pytest.fixture(scope="session")
def tiny_chat_model(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat folder with a random LLaMA of two layers, 256 tokens of context; read only."""
    import torch

    torch.set_num_threads(1)  # so small a model gains nothing from more
    return write_tiny_chat_model(tmp_path_factory.mktemp("chat_model") / "tiny", small_tokenizer)
