"""What a run is: the fields that a resume finds unchanged, and an end that is ahead."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from mobilellama.config import ConfigError
from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.engines.engine import resolve_precision
from mobilellama.pretrain.identity import precision_of, require_end_ahead
from mobilellama.pretrain.state.manifest import Manifest, read_manifest
from mobilellama.run_folder import RunFolder
from tests.pretrain.helpers.running import contents
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


def test_a_run_that_would_end_before_its_step_is_refused_and_left_as_it_is(
    small_dataset: Path, tmp_path: Path
) -> None:
    fields = {"train.max_steps": 2, "engine.kind": "ddp", "validation.every_steps": None}
    assert train_tiny(small_dataset, tmp_path, fields) == 0
    files = contents(tmp_path)
    message = (
        rf"train.max_steps = 1: the run is at step 2 already \({tmp_path}/checkpoints/step-2\)\. "
        r"Give 2 or more, or another run.folder for a shorter run\."
    )
    with pytest.raises(ConfigError, match=message):
        train_tiny(small_dataset, tmp_path, fields | {"train.max_steps": 1})
    assert contents(tmp_path) == files


def test_a_run_may_end_where_it_is_or_later_and_a_new_run_anywhere(
    tiny_run: Path, tmp_path: Path
) -> None:
    run = RunFolder(tiny_run)
    consumed = read_manifest(run.checkpoint(4)).consumed
    by_epochs = {"max_steps": None, "epochs": 0.5}
    for max_steps in (4, 5):
        require_end_ahead(run, {"max_steps": max_steps}, _not_asked)
    for end in (consumed, consumed + 1, None):
        require_end_ahead(run, by_epochs, lambda newest, end=end: end)
    for train in ({"max_steps": 1}, by_epochs):
        require_end_ahead(RunFolder(tmp_path), train, _not_asked)
    message = rf"train\.epochs = 0\.5: the run is beyond them already, at step 4 \({consumed} sam"
    with pytest.raises(ConfigError, match=message):
        require_end_ahead(run, by_epochs, lambda newest: newest.consumed - 1)


def _not_asked(newest: Manifest) -> int:
    raise AssertionError(f"asked for the end by epochs, with {newest}")
