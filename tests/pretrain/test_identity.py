"""What a run is: the fields that a resume finds unchanged."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.engines.engine import resolve_precision
from mobilellama.pretrain.identity import precision_of
from mobilellama.run_folder import RunFolder
from tests.pretrain.helpers.tiny import train_tiny

CPU = torch.device("cpu")


@pytest.mark.parametrize("began", ["bf16", "fp32"])
def test_auto_is_what_the_run_began_with_whatever_the_machine_would_choose(
    small_dataset: Path, tmp_path: Path, began: Literal["bf16", "fp32"]
) -> None:
    fields = {"train.max_steps": 1, "engine.kind": "ddp", "validation.every_steps": None}
    assert train_tiny(small_dataset, tmp_path, fields | {"engine.precision": began}) == 0
    run = RunFolder(tmp_path)
    assert precision_of(EngineConfig(precision="auto"), run, CPU) == began
    assert precision_of(EngineConfig(precision="fp32"), run, CPU) == "fp32"
    assert train_tiny(small_dataset, tmp_path, fields | {"train.max_steps": 2}) == 0
    assert run.checkpoint_steps() == [1, 2]


def test_auto_of_a_new_run_is_the_machines(tmp_path: Path) -> None:
    auto = EngineConfig(precision="auto")
    assert precision_of(auto, RunFolder(tmp_path), CPU) == resolve_precision("auto", CPU)
