"""A corpus and a tokenizer for benchmarks that are given none: Python's own library."""

import contextlib
import io
import json
import os
from pathlib import Path

from mobilellama.tokenize import train_tokenizer
from mobilellama.tokenize.sources.config import SourcesConfig


def library_corpus(root: Path) -> Path:
    """Write the sources of Python's library in RedPajama's layout."""
    library = Path(os.__file__).parent
    folders = {"github": library, "stackexchange": library / "email", "book": library / "asyncio"}
    for subset, folder in folders.items():
        texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))]
        (root / subset).mkdir(parents=True)
        lines = "".join(json.dumps({"text": text, "meta": {}}) + "\n" for text in texts)
        (root / subset / "sources.jsonl").write_text(lines)
    return root


def trained_tokenizer(root: str | Path, scratch: Path) -> str:
    """Train a tokenizer on a corpus, and return its path."""
    model = str(scratch / "tokenizer.model")
    sources = SourcesConfig(root=str(root))
    with contextlib.redirect_stdout(io.StringIO()):
        train_tokenizer.main(train_tokenizer.Config(sources=sources, output=model, vocab_size=4000))
    return model
