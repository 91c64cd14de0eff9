"""What the tests of this stage share: small corpora, the real command, digests of folders."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices

Command = Callable[..., subprocess.CompletedProcess[str]]
Digest = Callable[[Path], dict[str, str]]

_MANY_SLICES = ("--slice_bytes", "60000", "--heldout_share", "0.02")
GOOD = b'{"text": "good"}\n'


def place(root: Path, **sizes: int) -> SourcesConfig:
    """Make files of these sizes; '__' in a name stands for '/', '_DOT_' for '.'."""
    for name, size in sizes.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return SourcesConfig(root=str(root))


def read(root: Path, *, slice_bytes: int = 1 << 30) -> tuple[list[str], list[Counts]]:
    """Return the texts of every slice of a corpus, and each slice's counts."""
    sources = SourcesConfig(root=str(root))
    texts, counted = [], []
    for slice_ in find_slices(sources, slice_bytes):
        counted.append(Counts())
        for batch in read_documents(slice_, sources, counted[-1]):
            texts += batch
    return texts, counted


def corpus(folder: Path, data: bytes, name: str = "a.jsonl") -> Path:
    """Write one file into subset c4."""
    (folder / "c4").mkdir(exist_ok=True)
    (folder / "c4" / name).write_bytes(data)
    return folder


@pytest.fixture(scope="session")
def tokenize_command() -> Command:
    """Runs ``mobilellama tokenize ARGUMENTS`` in a process of its own."""

    def run(*arguments: str | int | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mobilellama", "tokenize", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    return run


@pytest.fixture(scope="session")
def digest() -> Digest:
    """Returns the sha256 of every file of a folder."""

    def of_folder(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return of_folder


@pytest.fixture(scope="session")
def llama_dataset(
    redpajama_sample: Path,
    llama_tokenizer: Path,
    tokenize_command: Command,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The dataset of the whole sample with LLaMA's tokenizer, by 2 workers; 10 s on 2 cores."""
    folder = tmp_path_factory.mktemp("llama_dataset") / "dataset"
    arguments = ["--tokenizer", llama_tokenizer, "--sources.root", redpajama_sample]
    done = tokenize_command("run", *arguments, "--output", folder, "--workers", "2")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def many_slices(
    small_corpus: Path,
    small_tokenizer: Path,
    tokenize_command: Command,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[str | Path], Path]:
    """The arguments of a run over some 90 slices, and its dataset, made by one worker.

    It lasts a few seconds, so that there is an instant in its middle to kill it.
    """
    folder = tmp_path_factory.mktemp("many_slices") / "dataset"
    root = folder.with_name("corpus")
    shutil.copytree(small_corpus, root)
    for i in range(3):
        shutil.copytree(small_corpus / "github", root / f"github/copy_{i}")
    arguments = ["--tokenizer", small_tokenizer, "--sources.root", root, *_MANY_SLICES]
    done = tokenize_command("run", *arguments, "--output", folder, "--workers", 1)
    assert done.returncode == 0, done.stderr
    return arguments, folder
