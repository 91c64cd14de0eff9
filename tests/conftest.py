"""What every test may use: the sample corpus, where it is present."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def redpajama_sample() -> Path:
    """Real text in RedPajama's layout; not part of the repository."""
    path = SHARED_DATA / "redpajama_sample"
    if not path.is_dir():
        pytest.skip(f"the sample corpus is not at {path}")
    return path


@pytest.fixture(scope="session")
def llama_tokenizer() -> Path:
    """LLaMA's sentencepiece model; not part of the repository."""
    path = SHARED_DATA / "llama_tokenizer.model"
    if not path.is_file():
        pytest.skip(f"the LLaMA tokenizer is not at {path}")
    return path
