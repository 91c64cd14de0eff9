"""A run of pretraining as transformers' LLaMA: its masters, its tokenizer, and no other run."""

import shutil
from pathlib import Path

import pytest
import torch

from mobilellama.config import ConfigError
from mobilellama.pretrain.generation.loading import HfChoice
from mobilellama.pretrain.generation.run_model import open_run_model
from mobilellama.run_folder import RunFolder
from tests.pretrain.helpers.stopped import state_of


def test_the_model_has_the_masters_of_the_checkpoint_that_is_named(tiny_run: Path) -> None:
    for path, step in ((tiny_run, 4), (RunFolder(tiny_run).checkpoint(2), 2)):
        masters = state_of(tiny_run, step)
        with open_run_model(str(path), tokenizer=None, remedy="-") as run:
            choice = HfChoice(model=str(path), device="cpu", dtype="fp32")
            weights = dict(run.build(choice).named_parameters())
            assert run.tokenizer.encode("def add", begins=True) and run.config.vocab_size == 832
        assert {f"{name}:weight" for name in weights} <= masters.keys()
        for name, weight in weights.items():
            assert torch.equal(weight.reshape(-1), masters[f"{name}:weight"]), name


def test_another_tokenizer_and_a_folder_that_is_none_are_refused(
    tiny_run: Path, llama_tokenizer: Path, tmp_path: Path
) -> None:
    with (
        pytest.raises(ConfigError, match="Give the same sentencepiece model"),
        open_run_model(str(tiny_run), tokenizer=str(llama_tokenizer), remedy="-"),
    ):
        pass
    empty = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    shutil.rmtree(RunFolder(empty).checkpoint(4))
    shutil.rmtree(RunFolder(empty).checkpoint(2))
    with (
        pytest.raises(ConfigError, match=r"model = .*the run has no whole checkpoint"),
        open_run_model(str(empty), tokenizer=None, remedy="-"),
    ):
        pass
