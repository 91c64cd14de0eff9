"""What the tests of this stage share: a chat folder."""

from pathlib import Path

import pytest

from tests.sft.tiny_chat_model import write_tiny_chat_model


@pytest.fixture(scope="session")
def tiny_chat_model(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat folder with a random LLaMA of two layers, 256 tokens of context; read only."""
    return write_tiny_chat_model(tmp_path_factory.mktemp("chat_model") / "tiny", small_tokenizer)
