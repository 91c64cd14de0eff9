"""A run with checkpoints, to read and to damage."""

import shutil
from pathlib import Path

import pytest

from mobilellama.run_folder import RunFolder
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.tiny import train_tiny


@pytest.fixture(scope="session")
def trained(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps on two ranks with checkpoints after 2, 4 and 6."""
    run = tmp_path_factory.mktemp("trained") / "run"
    fields = {"train.max_steps": 6, "checkpoint.every_steps": 2, "checkpoint.keep_last": 9}
    run_ranks(train_tiny, 2, small_dataset, run, fields)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> RunFolder:
    """A copy of that run."""
    shutil.copytree(trained, tmp_path / "run")
    return RunFolder(tmp_path / "run")
