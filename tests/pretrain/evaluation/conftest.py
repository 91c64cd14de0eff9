"""What the tests of scores share: a random model, and the files of ten tasks."""

from pathlib import Path

import pytest

from tests.pretrain.helpers.eval_tasks import write_tasks
from tests.pretrain.helpers.scored_model import write_model


@pytest.fixture(scope="session")
def base(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model: its tokenizer adds no <s>."""
    return write_model(tmp_path_factory.mktemp("models") / "base", small_tokenizer, add_bos=False)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Local files of the ten tasks."""
    return write_tasks(tmp_path_factory.mktemp("tasks"))
