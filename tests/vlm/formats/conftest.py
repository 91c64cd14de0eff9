"""What the tests of exports share: a folder in our form, and runs."""

from pathlib import Path

import pytest

from mobilellama.vlm.main import main
from tests.vlm.helpers.exporting import Runs
from tests.vlm.helpers.published import (
    make_published,
)


@pytest.fixture(scope="session")
def ours(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in our form, which was imported."""
    root = tmp_path_factory.mktemp("ours")
    published = make_published(root / "published", small_tokenizer)
    assert main(["import", "--model", str(published), "--output", str(root / "ours")]) == 0
    return root / "ours"


@pytest.fixture(scope="session")
def runs(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), small_tokenizer)
