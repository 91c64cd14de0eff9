"""The loop: it stops all ranks at one saved step, and the shape of a run changes no sample."""

import signal
from pathlib import Path
from typing import Any

import pytest

from mobilellama.run_folder import RunFolder, Verdict
from tests.helpers.ranks import Ranks, run_ranks
from tests.pretrain.helpers.running import FOREVER, steps_done, train_until_an_error
from tests.pretrain.helpers.stopped import losses_of
from tests.pretrain.helpers.tiny import train_tiny
from tests.pretrain.state.test_checkpoint import wait_for

pytestmark = pytest.mark.slow  # each trains, in processes of its own


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_to_one_rank_stops_all_at_the_same_saved_step(
    small_dataset: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = RunFolder(tmp_path)
    ranks = Ranks(train_tiny, 2, small_dataset, tmp_path, FOREVER)
    wait_for(lambda: steps_done(run) >= 2)
    ranks.signal(1, number)  # not to rank 0, which writes the verdict
    assert ranks.results() == [0, 0]
    verdict = run.read_verdict()
    assert verdict is not None
    assert verdict.kind == "stopped"
    assert run.checkpoint_steps() == [verdict.step]


def test_the_wall_clock_limit_saves_and_stops(small_dataset: Path, tmp_path: Path) -> None:
    fields = FOREVER | {"run.max_hours": 1e-9}
    assert run_ranks(train_tiny, 1, small_dataset, tmp_path, fields) == [0]
    verdict = RunFolder(tmp_path).read_verdict()
    assert verdict == Verdict(
        kind="stopped",
        message="stopped at step 1: the end of its time (run.max_hours)",
        attempt=1,
        step=1,
    )


def test_micro_batch_workers_and_engine_change_no_sample(
    small_dataset: Path, tmp_path: Path
) -> None:
    """Losses of the first step are those of the same samples, to rounding, in every shape."""
    shapes: list[tuple[int, dict[str, Any]]] = [
        (1, {"train.micro_batch_size": 8, "data.workers": 0}),
        (2, {"train.micro_batch_size": 1, "data.workers": 1}),
        (2, {"train.micro_batch_size": 4, "data.workers": 4, "engine.kind": "ddp"}),
    ]
    losses = []
    for i, (world_size, fields) in enumerate(shapes):
        fields |= {"engine.precision": "fp32", "train.max_steps": 3}
        run_ranks(train_tiny, world_size, small_dataset, tmp_path / str(i), fields)
        losses.append(losses_of(tmp_path / str(i)))
    for step in (1, 2, 3):
        for other in losses[1:]:
            names = {name for name in losses[0][step] if name.startswith("loss")}
            assert names == {name for name in other[step] if name.startswith("loss")}
            for name in names:
                assert other[step][name] == pytest.approx(losses[0][step][name], rel=1e-4)


def test_steps_without_a_finite_gradient_end_the_run_with_a_verdict(
    small_dataset: Path, tmp_path: Path
) -> None:
    """An absurd learning rate makes the weights overflow; each step after that is skipped."""
    fields = {
        "optimizer.learning_rate": 1e30, "schedule.warmup_steps": 0, "train.max_steps": 50,
        "loss_watch.max_skipped_in_a_row": 3,
    }  # fmt: skip
    [(kind, message)] = run_ranks(train_until_an_error, 1, small_dataset, tmp_path, fields)
    assert kind == "LossPolicyError"
    assert message.startswith("3 steps in a row had no finite gradient")
    verdict = RunFolder(tmp_path).read_verdict()
    assert verdict is not None
    assert verdict.kind == "failed"
