"""The fields of metrics and watchdog."""

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.monitoring.config import MetricsConfig, WatchdogConfig


def test_a_time_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^watchdog.save_minutes = 0: must be above 0"):
        WatchdogConfig(save_minutes=0)


@pytest.mark.parametrize("phase", ["step", "start", "validation", "save"])
def test_every_phase_may_wait_for_ever_and_none_for_no_time(phase: str) -> None:
    WatchdogConfig(**{f"{phase}_minutes": None})
    for value in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match=rf"^watchdog\.{phase}_minutes = .*: must be above 0"):
            WatchdogConfig(**{f"{phase}_minutes": value})


def test_an_interval_has_a_step_and_a_peak_is_above_nothing() -> None:
    with pytest.raises(ConfigError, match=r"^metrics\.every_steps = 0: must be at least 1"):
        MetricsConfig(every_steps=0)
    with pytest.raises(ConfigError, match=r"^metrics\.peak_tflops = 0: must be above 0\. Give the"):
        MetricsConfig(peak_tflops=0)
    assert MetricsConfig().sinks == ["console", "tensorboard"]
    assert MetricsConfig().sinks is not MetricsConfig().sinks  # each config has a list of its own
