"""Spikes, skipped steps, and the history that survives a restart."""

import json
import logging
import math

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.monitoring.loss_watch import LossPolicyError, LossWatch, LossWatchConfig

CONFIG = LossWatchConfig(window_steps=4, spike_sigma=3.0, max_skipped_in_a_row=3)


def see(watch: LossWatch, loss: float, *, applied: bool = True, step: int = 0) -> None:
    watch.record(loss, applied=applied, step=step, positions=range(10 * step, 10 * step + 10))


def test_a_spike_is_reported_with_its_step_and_positions(caplog: pytest.LogCaptureFixture) -> None:
    watch = LossWatch(CONFIG)
    for step, loss in enumerate([2.0, 4.0, 2.0, 4.0]):  # mean 3, deviation 1: the bar is 6
        see(watch, loss, step=step)
    see(watch, 6.0, step=4)
    assert watch.spikes == 0 and not caplog.records
    # The window is now 4, 2, 4, 6: mean 4, deviation sqrt(2), the bar 8.243.
    see(watch, 8.25, step=5)
    assert watch.spikes == 1
    assert [record.getMessage() for record in caplog.records] == [
        "step 5: loss spike, 8.2500 against 4.0000 +- 1.4142; positions 50 to 59"
    ]


def test_there_is_no_spike_before_the_window_is_full() -> None:
    watch = LossWatch(CONFIG)
    for loss in (1.0, 1.0, 1.0, 50.0):
        see(watch, loss)
    assert watch.spikes == 0


def test_skipped_steps_in_a_row_end_the_run_by_name(caplog: pytest.LogCaptureFixture) -> None:
    watch = LossWatch(CONFIG)
    see(watch, math.nan, applied=False, step=7)
    see(watch, 3.0, applied=False, step=8)
    with pytest.raises(LossPolicyError) as caught:
        see(watch, math.inf, applied=False, step=9)
    assert "3 steps in a row had no finite gradient, the last at step 9" in str(caught.value)
    assert "optimizer.learning_rate" in str(caught.value)
    assert watch.skipped_steps == 3
    assert caplog.records[0].levelno == logging.WARNING
    assert caplog.records[0].getMessage() == (
        "step 7: loss nan, skipped: its gradient is not finite (1 in a row); positions 70 to 79"
    )


def test_a_good_step_ends_the_row_and_bad_ones_leave_no_trace_in_the_window() -> None:
    watch = LossWatch(CONFIG)
    for _ in range(5):
        see(watch, math.nan, applied=False)
        see(watch, math.nan, applied=False)
        see(watch, 2.0)
    assert watch.skipped_steps == 10
    assert watch.state()["losses"] == [2.0] * 4
    assert watch.state()["skipped_in_a_row"] == 0


def test_a_loss_that_is_not_finite_counts_towards_the_row_though_the_step_was_applied() -> None:
    watch = LossWatch(CONFIG)
    see(watch, math.nan)
    see(watch, math.nan)
    assert watch.skipped_steps == 0
    with pytest.raises(LossPolicyError):
        see(watch, math.nan)


def test_a_restart_goes_on_with_the_same_history() -> None:
    """The state goes through JSON, as it does in a checkpoint."""
    losses = [3.1, 2.9, 1 / 3, math.pi, 2.7, 50.0, 2.6, 60.0, 2.5]
    undisturbed = LossWatch(CONFIG)
    for loss in losses:
        see(undisturbed, loss)
    watch = LossWatch(CONFIG)
    for loss in losses:
        see(watch, loss)
        watch = LossWatch(CONFIG, json.loads(json.dumps(watch.state())))
    assert watch.state() == undisturbed.state()
    assert watch.spikes > 0


def test_a_row_of_skipped_steps_goes_on_over_a_restart() -> None:
    watch = LossWatch(CONFIG)
    see(watch, math.nan, applied=False)
    see(watch, math.nan, applied=False)
    watch = LossWatch(CONFIG, watch.state())
    with pytest.raises(LossPolicyError):
        see(watch, math.nan, applied=False)


@pytest.mark.parametrize(("field", "least"), [("window_steps", 2), ("max_skipped_in_a_row", 1)])
def test_a_window_of_a_single_step_and_no_skipped_one_are_refused(field: str, least: int) -> None:
    message = rf"^loss_watch\.{field} = {least - 1}: must be at least {least}"
    with pytest.raises(ConfigError, match=message):
        LossWatchConfig(**{field: least - 1})
