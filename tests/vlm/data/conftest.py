"""A recipe of few records."""

from pathlib import Path

import pytest

from mobilellama.vlm.data.sample_file import (
    Recipe,
)
from tests.vlm.helpers.llava_data import write_llava
from tests.vlm.helpers.recipes import recipe_of


@pytest.fixture
def recipe(tmp_path: Path, small_tokenizer: Path) -> Recipe:
    data, images = write_llava(tmp_path / "data", records=20)
    return recipe_of(data, images, small_tokenizer)
