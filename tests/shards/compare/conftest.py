"""Datasets of one small corpus, tokenised in different ways."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mobilellama.tokenize.main import main as tokenize_main

Tokenise = Callable[..., Path]
TEXTS = [f"Text number {i} of the corpus, which has its own words: {'so ' * i}" for i in range(60)]


def write_corpus(
    root: Path,
    texts: list[str],
    subsets: tuple[str, ...] = ("c4", "wikipedia"),
    *,
    name: str = "a.jsonl",
) -> None:
    """Write the texts into one file of each subset."""
    for subset in subsets:
        (root / subset).mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"text": f"{subset}: {text}"}) for text in texts]
        (root / subset / name).write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two subsets of 60 documents, a file each; a test may change it."""
    write_corpus(tmp_path / "corpus", TEXTS)
    return tmp_path / "corpus"


def _tokenise(corpus: Path, tokenizer: Path, output: Path, *options: object) -> Path:
    arguments = ["--tokenizer", tokenizer, "--sources.root", corpus, "--workers", 1]
    assert tokenize_main(["run", *map(str, [*arguments, "--output", output, *options])]) == 0
    return output


@pytest.fixture(scope="session")
def plain(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of the corpus as it is; read only."""
    folder = tmp_path_factory.mktemp("plain")
    write_corpus(folder / "corpus", TEXTS)
    return _tokenise(folder / "corpus", small_tokenizer, folder / "dataset")


@pytest.fixture
def tokenise(corpus: Path, small_tokenizer: Path, tmp_path: Path) -> Tokenise:
    """Tokenise the corpus as it is now into a folder of a name, with more options."""

    def run(name: str, *options: object, tokenizer: Path = small_tokenizer) -> Path:
        return _tokenise(corpus, tokenizer, tmp_path / name, *options)

    return run
