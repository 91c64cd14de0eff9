"""What the tests of this stage share: a run with checkpoints, the command in this process."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilellama.__main__ import main
from mobilellama.distributed import World, close
from mobilellama.distributed_config import DistributedConfig
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.tiny import train_tiny


@pytest.fixture(scope="session")
def tiny_run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny model on two ranks, with checkpoints after 2 and 4 steps; read only.

    It has grouped key-value heads, and more rows of vocabulary than the tokenizer has pieces.
    """
    run = tmp_path_factory.mktemp("tiny_run") / "run"
    fields = {
        "model.vocab_size": 832,
        "model.n_kv_heads": 1,
        "train.max_steps": 4,
        "checkpoint.every_steps": 2,
    }
    run_ranks(train_tiny, 2, small_dataset, run, fields)
    return run


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A world of this one process."""
    threads = torch.get_num_threads()
    yield World(DistributedConfig(accelerator="cpu"))
    close()
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs ``mobilellama ARGUMENTS`` in this process, with its messages and exit code."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mobilellama", *map(str, arguments)])
        code = main()
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    yield run
    logging.getLogger().handlers.clear()  # they write to this test's captured stream


LoadAlone = Callable[..., dict[str, Any]]
LOAD_ALONE = Path(__file__).parent / "helpers/load_alone.py"


@pytest.fixture(scope="session")
def load_alone(tmp_path_factory: pytest.TempPathFactory) -> LoadAlone:
    """Loads exports with transformers alone, in a process of its own; see load_alone.py."""

    def load(
        *names: str | Path, texts: list[str], environment: dict[str, str] | None = None
    ) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, str(LOAD_ALONE), *map(str, names)],
            input=json.dumps(texts),
            env=os.environ | (environment or {"HF_HUB_OFFLINE": "1"}),
            cwd=tmp_path_factory.mktemp("elsewhere"),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return load
