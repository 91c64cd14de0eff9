"""Resuming: bitwise at the same world size, the same samples at any other."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from mobilellama.config import ConfigError
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.run_folder import RunFolder
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.stopped import cut_back, losses_of, state_of
from tests.pretrain.helpers.tiny import train_tiny

pytestmark = pytest.mark.slow  # each trains, in processes of its own

LION = {"optimizer.kind": "lion", "optimizer.learning_rate": 1e-3, "optimizer.beta2": 0.99}
ENGINES = [
    pytest.param({"engine.kind": "deepspeed", "engine.precision": "bf16"}, id="deepspeed-bf16"),
    pytest.param({"engine.kind": "deepspeed", "engine.precision": "fp32"}, id="deepspeed-fp32"),
    pytest.param({"engine.zero_stage": 2, "engine.precision": "bf16"}, id="zero2-bf16"),
    pytest.param({"engine.kind": "ddp", "engine.precision": "fp32"}, id="ddp-fp32"),
    pytest.param(LION | {"engine.kind": "ddp", "engine.precision": "fp32"}, id="ddp-lion"),
    pytest.param(LION | {"engine.kind": "deepspeed", "engine.precision": "bf16"}, id="bf16-lion"),
    pytest.param(LION | {"engine.zero_stage": 2, "engine.precision": "fp32"}, id="zero2-lion"),
]


STATE = {"adamw": {"weight", "exp_avg", "exp_avg_sq"}, "lion": {"weight", "exp_avg"}}


@pytest.mark.parametrize("engine", ENGINES)
def test_two_ranks_killed_and_resumed_equal_two_that_never_stopped_bit_for_bit(
    small_dataset: Path, tmp_path: Path, engine: dict[str, Any]
) -> None:
    whole = tmp_path / "whole"
    run_ranks(train_tiny, 2, small_dataset, whole, engine | {"checkpoint.every_steps": 4})
    resumed = cut_back(whole, tmp_path / "resumed", step=4)
    run_ranks(train_tiny, 2, small_dataset, resumed, engine)

    expected, got = state_of(whole, 8), state_of(resumed, 8)
    assert expected.keys() == got.keys()
    assert {name.partition(":")[2] for name in got} == STATE[engine.get("optimizer.kind", "adamw")]
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    assert losses_of(whole) == losses_of(resumed)
    assert sorted(losses_of(resumed)) == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("step", [2, 6])
def test_a_line_of_metrics_averages_the_same_steps_after_a_kill_or_a_stop(
    small_dataset: Path, tmp_path: Path, step: int
) -> None:
    """The checkpoint of step 6 is the one of a stop: it ended an interval of 4 steps early."""
    fields = {"metrics.every_steps": 4, "checkpoint.every_steps": 2}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run_ranks(train_tiny, 2, small_dataset, whole, fields)
    if step == 6:
        run_ranks(stop_at, 2, small_dataset, resumed, step, fields)
        assert sorted(losses_of(resumed)) == [4, 6]
    else:
        cut_back(whole, resumed, step=step)
    run_ranks(train_tiny, 2, small_dataset, resumed, fields)
    assert losses_of(whole) == losses_of(resumed)
    assert sorted(losses_of(resumed)) == [4, 8]


def stop_at(dataset: Path, run: Path, step: int, fields: dict[str, Any]) -> int:
    """Train, and ask for a stop while a step is taken."""
    from mobilellama.pretrain.monitoring.loss_watch import LossWatch

    record = LossWatch.record

    def record_and_stop(self: LossWatch, loss: float, **facts: Any) -> None:
        record(self, loss, **facts)
        if facts["step"] == step - 1:  # the next step asks for it with its losses
            (run / "stop").touch()

    LossWatch.record = record_and_stop
    return train_tiny(dataset, run, fields)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_rank_then_two_then_one_gives_the_losses_of_one_to_rounding(
    small_dataset: Path, tmp_path: Path, precision: str
) -> None:
    fields = {"engine.precision": precision, "checkpoint.every_steps": 2, "train.max_steps": 6}
    alone = tmp_path / "alone"
    run_ranks(train_tiny, 1, small_dataset, alone, fields)
    on_two = cut_back(alone, tmp_path / "on_two", step=2)
    run_ranks(train_tiny, 2, small_dataset, on_two, fields)
    elastic = cut_back(on_two, tmp_path / "elastic", step=4)
    run_ranks(train_tiny, 1, small_dataset, elastic, fields)

    expected, got = losses_of(alone), losses_of(elastic)
    assert sorted(got) == sorted(expected) == [1, 2, 3, 4, 5, 6]
    tolerance = 1e-5 if precision == "fp32" else 2e-3
    for step, record in expected.items():
        assert got[step]["consumed"] == record["consumed"] == 8 * step
        assert got[step]["loss"] == pytest.approx(record["loss"], rel=tolerance)
        # The same samples: the same subsets occur, with the losses of the same tokens.
        subsets = {name for name in record if name.startswith("loss/")}
        assert subsets == {name for name in got[step] if name.startswith("loss/")}
        for name in subsets:
            assert got[step][name] == pytest.approx(record[name], rel=5 * tolerance)


@pytest.mark.parametrize("optimizer", [{}, LION], ids=["adamw", "lion"])
@pytest.mark.parametrize(("saved_by", "loaded_by"), [("deepspeed", "ddp"), ("ddp", "deepspeed")])
def test_a_checkpoint_of_one_rank_loads_on_two_of_another_engine_with_the_same_bits(
    small_dataset: Path, tmp_path: Path, optimizer: dict[str, Any], saved_by: str, loaded_by: str
) -> None:
    """Saved by 1 rank, resumed by 2 that take no step, and saved again: nothing changes."""
    alone = tmp_path / "alone"
    fields = optimizer | {"train.max_steps": 2, "engine.kind": saved_by}
    run_ranks(train_tiny, 1, small_dataset, alone, fields)
    before = state_of(alone, 2)
    again = run_ranks(resave, 2, small_dataset, alone, fields | {"engine.kind": loaded_by})
    assert again == [0, 0]
    after = state_of(alone, 2)
    assert before.keys() == after.keys()
    assert Checkpoint(RunFolder(alone).checkpoint(2)).manifest.world_size == 2
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def resave(dataset: Path, run: Path, fields: dict[str, Any]) -> int:
    """Load the newest checkpoint on these ranks and save it as its own successor."""
    from mobilellama.commandline.parser import parse_config
    from mobilellama.distributed import World
    from mobilellama.pretrain.assemble import assemble
    from mobilellama.pretrain.config import Config
    from mobilellama.pretrain.run import facts_of, pretraining
    from mobilellama.pretrain.state import checkpoint
    from mobilellama.pretrain.training_data import open_windows
    from tests.pretrain.helpers.tiny import tiny_argv

    config = parse_config(Config, tiny_argv(dataset, run, fields)[1:], prog="test", about="")
    world, folder = World(config.distributed), RunFolder(run)
    data = open_windows(config)
    newest = checkpoint.open_newest(folder, world, attempt=1)
    assert newest is not None
    precision = newest.manifest.identity["engine.precision"]
    job = pretraining(config, data, world, facts_of(config, data, precision))
    attempt = assemble(job, folder, world, 1, newest)
    step, consumed = newest.manifest.step, newest.manifest.consumed
    world.run_on_main(lambda: shutil.rmtree(folder.checkpoint(step)))
    facts = {
        "step": step, "consumed": consumed, "identity": job.facts.identity,
        "record": job.facts.record,
        "config": attempt.config, "counters": {"watch": attempt.watch.state()},
    }  # fmt: skip
    checkpoint.save(folder, world, attempt.engine, attempt=1, facts=facts)
    return 0


def test_the_random_generators_of_each_rank_are_saved(small_dataset: Path, tmp_path: Path) -> None:
    run_ranks(train_tiny, 2, small_dataset, tmp_path / "run", {"train.max_steps": 1})
    for rank in range(2):
        path = RunFolder(tmp_path / "run").checkpoint(1) / f"rank-{rank}.safetensors"
        with safe_open(path, "pt") as file:
            assert {"rng:python", "rng:numpy", "rng:torch"} <= set(file.keys())


def test_a_resume_with_another_optimizer_is_refused_naming_the_field(
    small_dataset: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    one_step = {"train.max_steps": 1, "engine.kind": "ddp"}
    run_ranks(train_tiny, 1, small_dataset, run, one_step | LION)
    stored = RunFolder(run).checkpoint(1) / "manifest.json"
    assert json.loads(stored.read_text())["optimizer"] == {"kind": "lion", "state": ["exp_avg"]}
    rule = "optimizer.kind = adamw: .*step-1 holds the state of lion. Use that, or begin another"
    with pytest.raises(ConfigError, match=rule):
        train_tiny(small_dataset, run, one_step | {"train.max_steps": 2})
    assert RunFolder(run).checkpoint_steps() == [1]
    assert RunFolder(run).attempt_numbers() == [1]
