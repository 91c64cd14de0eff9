"""What an attempt is made of: the config that checkpoints store, and what is told of a model."""

from pathlib import Path
from typing import Any

import torch

from mobilellama.pretrain.assemble import count_text
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.run_folder import RunFolder


def test_a_model_of_which_a_part_trains_tells_both_counts() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(9, 10), torch.nn.Linear(10, 100, bias=False))
    assert count_text(model) == "1,100 parameters"
    model[1].requires_grad_(False)
    assert count_text(model) == "1,100 parameters, of which 100 (9.09 %) train"


def test_checkpoints_store_the_config_with_the_lengths_that_the_run_has(tiny_run: Path) -> None:
    config: dict[str, Any] = dict(Checkpoint(RunFolder(tiny_run).checkpoint(4)).manifest.config)
    assert (config["train"]["steps"], config["train"]["seq_len"]) == (4, 32)
    assert config["model"]["vocab_size"] == 832
    assert config["run"]["folder"] == str(tiny_run)
