"""What every test may use: a small corpus, tokenizer and dataset; the large sample if present."""

import ast
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics

import pytest
import zstandard

from mobilellama.tokenize.main import main as tokenize_main
from tests.pretrain.helpers.hub_server import HubServer

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def pytest_configure() -> None:
    """Let Ctrl-C work again, and results have any width.

    A script's shell ignores Ctrl-C for what it starts with '&'. pytest-xdist sets COLUMNS to 80.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("COLUMNS", None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Forget that an earlier test trained in this process.

    Fabric sets the variables of a rank. A command that a test starts would take itself for a rank
    that some launcher has started, and would wait for the others for ever.
    """
    for name in RANK_VARIABLES:
        os.environ.pop(name, None)


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


def _write_records(path: Path, texts: list[str]) -> None:
    """Write RedPajama's records, one a line, compressed if the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text, "meta": {"source": path.parent.name}}) for text in texts]
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(zstandard.compress(data) if path.suffix == ".zst" else data)


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 1.5 MB of real text in RedPajama's layout, from Python's own library.

    Three subsets, five files: ``github`` (sources), ``wikipedia`` (the language's help
    topics) and ``common_crawl`` (docstrings, .jsonl.zst).
    """
    root = tmp_path_factory.mktemp("small_corpus")
    library = Path(os.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in sorted(library.glob("[a-e]*.py"))]
    docstrings = [
        ast.get_docstring(node) or ""
        for path in sorted(library.glob("[s-z]*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)
    ]
    docstrings = [text for text in docstrings if text]
    half = len(docstrings) // 2
    _write_records(root / "github/filtered_0.sampled.jsonl", sources[::2])
    _write_records(root / "github/filtered_1.sampled.jsonl", sources[1::2])
    _write_records(
        root / "wikipedia/wiki.jsonl", [topics.topics[name] for name in sorted(topics.topics)]
    )
    folder = root / "common_crawl/2023-06"
    _write_records(folder / "en_head_0000.json.gz.dedup.classifier.jsonl.zst", docstrings[:half])
    _write_records(folder / "en_middle_0000.json.gz.dedup.classifier.jsonl.zst", docstrings[half:])
    return root


@pytest.fixture(scope="session")
def small_tokenizer(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece model of 800 pieces, trained on the small corpus."""
    path = tmp_path_factory.mktemp("small_tokenizer") / "tokenizer.model"
    arguments = ["--sources.root", str(small_corpus), "--output", str(path), "--vocab_size", "800"]
    assert tokenize_main(["train-tokenizer", *arguments]) == 0
    return path


@pytest.fixture(scope="session")
def small_dataset(
    small_corpus: Path, small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The dataset folder that 'tokenize run' makes of the small corpus, 2 % held out."""
    path = tmp_path_factory.mktemp("small_dataset") / "dataset"
    arguments = ["--tokenizer", str(small_tokenizer), "--sources.root", str(small_corpus)]
    arguments += ["--output", str(path), "--heldout_share", "0.02", "--workers", "2"]
    assert tokenize_main(["run", *arguments]) == 0
    return path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub without a repository, on this machine, that this process asks."""
    from tests.helpers.hub_place import lead_to  # imports huggingface_hub

    with HubServer() as server:
        monkeypatch.setenv("HF_TOKEN", "")
        lead_to(server.url, tmp_path / "cache", monkeypatch.setattr)
        yield server
