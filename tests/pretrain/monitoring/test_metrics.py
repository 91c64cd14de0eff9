"""What a run measures: intervals, and where they go."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mobilellama.distributed import World
from mobilellama.pretrain.engines.engine import StepReport
from mobilellama.pretrain.monitoring.config import MetricsConfig
from mobilellama.pretrain.monitoring.interval import IntervalState, StepResult
from mobilellama.pretrain.monitoring.loss_watch import LossWatch, LossWatchConfig
from mobilellama.pretrain.monitoring.metrics import Metrics
from mobilellama.pretrain.monitoring.tally import Losses
from mobilellama.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return folder


def metrics(
    run: RunFolder,
    world: World,
    *,
    every_steps: int = 2,
    resumed: int = 0,
    interval: IntervalState | None = None,
) -> Metrics:
    return Metrics(
        MetricsConfig(every_steps=every_steps, peak_tflops=1.0),
        run=run,
        world=world,
        group_names=("book", "github"),
        peak_lrs={"learning_rate": 3e-4},
        seq_len=100,
        max_steps=10,
        flops_per_token=1e9,
        resumed_step=resumed,
        resumed_interval=interval,
        attempt=run.newest_attempt(),
        run_config={},
    )


def see(to: Metrics, step: int, losses: Losses, *, final: bool = False, **changed: Any) -> None:
    result = StepResult(
        num_samples=4,
        tokens=400,
        losses=losses,
        report=StepReport(grad_norm=0.5, applied=True),
        lr_factor=0.5,
        step_s=2.0,
        data_wait_s=0.25,
        stop_requested=False,
    )
    to.record(
        replace(result, **changed),
        step=step,
        consumed=4 * step,
        watch=LossWatch(LossWatchConfig()),
        final=final,
    )


def records(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def scalars(run: RunFolder, tag: str) -> dict[int, float]:
    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_losses_of_an_interval_are_means_over_tokens_not_over_steps(
    run: RunFolder, world: World
) -> None:
    shown = metrics(run, world)
    # Step 1: 100 tokens of book at 3.0; step 2: 300 of book at 2.0, 100 of github at 1.0.
    see(shown, 1, Losses([300.0, 0.0], [100, 0]), step_s=1.0, data_wait_s=0.5)
    assert not run.metrics.exists()
    see(shown, 2, Losses([600.0, 100.0], [300, 100]), step_s=4.0, data_wait_s=0.0)
    shown.close()
    (record,) = records(run)
    assert record["loss"] == pytest.approx((300 + 600 + 100) / 500)
    assert record["loss/book"] == pytest.approx(900 / 400)
    assert record["loss/github"] == pytest.approx(1.0)
    # Two steps of 4 samples of 100 tokens, of which 500 were supervised.
    assert record["tokens_per_s_per_gpu"] == pytest.approx(800 / 5.0)
    assert record["supervised_share"] == pytest.approx(500 / 800)
    assert record["mfu"] == pytest.approx(800 / 5.0 * 1e9 / 1e12)
    assert (record["step_s"], record["data_wait_s"]) == (2.5, 0.25)
    assert record["left_s"] == pytest.approx(8 * 2.5)  # steps 3 ... 10
    assert (record["step"], record["consumed"], record["tokens"]) == (2, 8, 800)
    assert record["learning_rate"] == pytest.approx(1.5e-4)
    assert record["grad_norm"] == 0.5
    assert record["memory_gib"] > 0.05


def test_each_interval_begins_anew_and_a_final_step_ends_one_early(
    run: RunFolder, world: World
) -> None:
    shown = metrics(run, world)
    for step, loss in enumerate([9.0, 9.0, 4.0, 2.0, 7.0], start=1):
        see(shown, step, Losses([loss, 0.0], [1, 0]), final=step == 5)
    shown.close()
    assert [(r["step"], r["loss"]) for r in records(run)] == [(2, 9.0), (4, 3.0), (5, 7.0)]
    assert all("loss/github" not in record for record in records(run))  # no token of it was seen


def test_an_interval_that_was_interrupted_is_written_as_if_it_had_not_been(
    run: RunFolder, world: World
) -> None:
    losses = [Losses([0.1 * step, 0.7], [step, 3]) for step in range(1, 5)]
    shown = metrics(run, world, every_steps=3)
    for step, loss in enumerate(losses, start=1):
        see(shown, step, loss)
    (whole,) = records(run)
    run.metrics.unlink()

    shown = metrics(run, world, every_steps=3)
    see(shown, 1, losses[0])
    see(shown, 2, losses[1], final=True)
    shown.validation(2, {"validation_loss": 2.5})
    assert [record["step"] for record in records(run)] == [2, 2]
    stored = json.loads(json.dumps(shown.state()))  # as a checkpoint holds it
    again = metrics(run, world, every_steps=3, resumed=2, interval=stored)
    assert records(run) == [{"step": 2, "validation_loss": 2.5}]
    see(again, 3, losses[2])
    resumed = records(run)[-1]
    varying = {"memory_gib"}
    assert {k: v for k, v in resumed.items() if k not in varying} == {
        k: v for k, v in whole.items() if k not in varying
    }
    assert again.state()["num_steps"] == 0


def test_a_checkpoint_without_sums_keeps_the_line_of_the_part_before_the_stop(
    run: RunFolder, world: World
) -> None:
    shown = metrics(run, world, every_steps=3)
    see(shown, 1, Losses([2.0, 0.0], [1, 0]), final=True)
    again = metrics(run, world, every_steps=3, resumed=1)
    for step in (2, 3):
        see(again, step, Losses([4.0, 0.0], [1, 0]))
    assert [(record["step"], record["loss"]) for record in records(run)] == [(1, 2.0), (3, 4.0)]


def test_what_is_not_finite_is_null_in_json_and_absent_from_tensorboard(
    run: RunFolder, world: World
) -> None:
    shown = metrics(run, world, every_steps=1)
    bad = StepReport(grad_norm=math.inf, applied=False)
    see(shown, 1, Losses([math.nan, 1.0], [1, 1]), report=bad)
    see(shown, 2, Losses([1.0, 1.0], [1, 1]))
    shown.close()
    first, second = (
        json.loads(line, parse_constant=pytest.fail)
        for line in run.metrics.read_text().splitlines()
    )
    assert (first["loss"], first["grad_norm"], first["loss/github"]) == (None, None, 1.0)
    assert second["loss"] == 1.0
    assert scalars(run, "loss") == {2: 1.0}


def test_tensorboard_has_the_scalars_and_a_resumed_run_replaces_what_is_after_its_step(
    run: RunFolder, world: World
) -> None:
    shown = metrics(run, world, every_steps=1)
    for step in range(1, 6):
        see(shown, step, Losses([10.0 * step, 0.0], [1, 0]))
    shown.validation(4, {"validation_loss": 2.5, "validation_loss/book": 2.25})
    shown.close()
    assert scalars(run, "loss") == {1: 10, 2: 20, 3: 30, 4: 40, 5: 50}
    assert scalars(run, "validation_loss/book") == {4: 2.25}
    again = metrics(run, world, every_steps=1, resumed=3)
    see(again, 4, Losses([400.0, 0.0], [1, 0]))
    again.close()
    assert scalars(run, "loss") == {1: 10, 2: 20, 3: 30, 4: 400}  # the former 5 is gone
    assert [(r["step"], r["loss"]) for r in records(run)] == [(1, 10), (2, 20), (3, 30), (4, 400)]


def test_validation_losses_are_written_where_there_are_any(
    run: RunFolder, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shown = metrics(run, world)
    shown.validation(3, {})
    assert not run.metrics.exists()
    shown.validation(4, {"validation_loss": 2.5})
    shown.close()
    assert records(run) == [{"step": 4, "validation_loss": 2.5}]
    assert "step 4  validation_loss 2.5000" in caplog.messages


def test_only_gpus_have_tokens_a_second_per_gpu(
    run: RunFolder, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shown = metrics(run, world)
    see(shown, 2, Losses([600.0, 100.0], [300, 100]))
    shown.close()
    assert "tokens/s  " in caplog.text and "GPU" not in caplog.text
