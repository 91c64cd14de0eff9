"""What the tests of Hugging Face folders share: exports of a run, and a folder of transformers."""

import shutil
from pathlib import Path

import pytest

from mobilellama.pretrain.main import main
from tests.pretrain.helpers.hf_llama import write_llama


@pytest.fixture(scope="session")
def exports(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The newest checkpoint in fp32, the same in many shards, and in bf16 with <s>."""
    folder = tmp_path_factory.mktemp("exports")
    fields = {
        "fp32": ["--dtype", "fp32"],
        "sharded": ["--dtype", "fp32", "--max_shard_size_gb", "1e-4"],
        "bf16": ["--add_bos", "true", "--check", "true"],
    }
    for name, more in fields.items():
        arguments = ["--checkpoint", str(tiny_run), "--output", str(folder / name)]
        assert main(["export", *arguments, *more]) == 0
    return {name: folder / name for name in fields}


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as transformers 5 writes it, in fp32; read only."""
    return write_llama(tmp_path_factory.mktemp("hf") / "plain", rope_theta=5e4)


@pytest.fixture
def copied(plain: Path, tmp_path: Path) -> Path:
    """A copy of that folder to change."""
    return Path(shutil.copytree(plain, tmp_path / "copied"))
