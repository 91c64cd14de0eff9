"""Every file that a command makes has the mode that the umask gives, whatever library writes it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mobilellama.pretrain.main import main as pretrain_main
from mobilellama.sft.main import main as sft_main
from mobilellama.tokenize.main import main as tokenize_main
from mobilellama.vlm.main import main as vlm_main
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.tiny import train_tiny

MADE = Path(__file__).parent / "fixtures/made_by_22bff75"
TOKENIZER = MADE / "dataset/tokenizer.model"


@pytest.fixture(params=[0o022, 0o027], ids=["umask 022", "umask 027"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    former = os.umask(request.param)
    yield request.param
    os.umask(former)


def require_modes(folder: Path, umask: int, *, least: int) -> None:
    """Assert that all that a command made has the modes of new files and folders."""
    paths = sorted(folder.rglob("*"))
    assert sum(path.is_file() for path in paths) >= least
    wrong = {
        str(path.relative_to(folder)): oct(path.stat().st_mode & 0o777)
        for path in paths
        if path.stat().st_mode & 0o777 != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert wrong == {}


def test_datasets(tmp_path: Path, umask: int) -> None:
    common = ["--tokenizer", TOKENIZER, "--workers", "1", "--output"]
    made = ["run", "--sources.root", MADE / "corpus", *common, tmp_path / "dataset"]
    assert tokenize_main([*map(str, made)]) == 0
    made = ["prepare", "--data.path", MADE / "chats.json", "--seq_len", "384"]
    assert sft_main([*map(str, made), *map(str, common), str(tmp_path / "rows")]) == 0
    require_modes(tmp_path, umask, least=20)


def test_exports_of_every_stage(tmp_path: Path, umask: int) -> None:
    for main, verb, run, more in (
        (pretrain_main, "export", "run", ["--max_shard_size_gb", "1e-6"]),
        (sft_main, "export", "chat_run", ["--base", "someone/base"]),
        (sft_main, "merge", "chat_run", []),
        (vlm_main, "export", "see_run", []),
        (vlm_main, "export", "see_run", ["--format", "projector"]),
    ):
        output = tmp_path / f"{verb} {run} {''.join(more)}".replace("/", " ")
        arguments = [verb, "--checkpoint", str(MADE / run), "--output", str(output), *more]
        assert main([*arguments]) == 0
    plot = ["plot", "--run", str(MADE / "run"), "--output", str(tmp_path / "plot.png")]
    assert pretrain_main(plot) == 0
    require_modes(tmp_path, umask, least=30)


def train_under(umask: int, dataset: Path, run: Path, fields: dict[str, Any]) -> int:
    """Train in this process, a rank."""
    os.umask(umask)
    return train_tiny(dataset, run, fields)


def test_a_run_with_its_checkpoints(small_dataset: Path, tmp_path: Path, umask: int) -> None:
    fields = {"train.max_steps": 1, "engine.kind": "ddp"}
    run_ranks(train_under, 1, umask, small_dataset, tmp_path / "run", fields)
    assert (tmp_path / "run/checkpoints/step-1/rank-0.safetensors").is_file()
    require_modes(tmp_path, umask, least=9)
