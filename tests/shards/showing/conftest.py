"""The texts that the small dataset was made of."""

import json
from pathlib import Path

import pytest
import zstandard


@pytest.fixture(scope="session")
def source_texts(small_corpus: Path) -> dict[str, list[str]]:
    """The texts of every source file, in order, empty ones left out."""
    texts = {}
    for path in small_corpus.rglob("*.jsonl*"):
        data = path.read_bytes()
        if path.suffix == ".zst":
            data = zstandard.decompress(data)
        records = [json.loads(line)["text"] for line in data.split(b"\n") if line]
        texts[path.relative_to(small_corpus).as_posix()] = [text for text in records if text]
    return texts
