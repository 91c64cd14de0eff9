"""The console: a line a record, in a fixed order, as wide as the terminal."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest

from mobilellama.pretrain.sinks.console import console_line, open_sink
from mobilellama.pretrain.sinks.sink import MetricsRecord, SinkContext
from mobilellama.run_folder import RunFolder

RECORD: dict[str, Any] = {
    "step": 20,
    "tokens": 104_857_600,
    "loss": 2.34567,
    "grad_norm": 0.98765,
    "learning_rate": 3e-4,
    "tokens_per_s_per_gpu": 18_800.4,
    "supervised_share": 1.0,
    "mfu": 0.5423,
    "step_s": 1.7432,
    "data_wait_s": 0.0012,
    "memory_gib": 61.26,
    "skipped_steps": 1,
    "left_s": 93_784.0,
    "loss/c4": 2.12345,
    "loss/github": 1.5,
}


def test_the_console_line_has_a_fixed_order_and_units() -> None:
    assert console_line(RECORD, 247_955) == (
        "step 20/247955  104,857,600 tokens  loss 2.3457  grad norm 0.988  lr 3.00e-04  "
        "18,800 tokens/s/GPU  MFU 54.2 %  1.743 s/step (0.001 data)  61.3 GiB  skipped 1  "
        "1d 02:03:04 left  c4 2.123  github 1.500"
    )


def test_the_console_line_leaves_out_what_does_not_fit_and_keeps_the_loss_and_the_time_left() -> (
    None
):
    """Of 80 columns the date and the time take 22."""
    assert console_line(RECORD, 247_955, width=0) == "step 20/247955  loss 2.3457  1d 02:03:04 left"
    assert console_line(RECORD, 247_955, per="", width=80 - 22) == (
        "step 20/247955  loss 2.3457  lr 3.00e-04  1d 02:03:04 left"
    )
    whole = console_line(RECORD, 247_955)
    for width in range(45, len(whole)):
        line = console_line(RECORD, 247_955, width=width)
        assert len(line) <= width and line.endswith("left") and "loss 2.3457" in line
    assert console_line(RECORD, 247_955, width=len(whole)) == whole


def test_the_console_line_of_a_cpu_has_no_mfu_and_shows_a_loss_that_is_not_finite() -> None:
    line = console_line(RECORD | {"mfu": None, "loss": math.nan}, 100)
    assert "MFU" not in line
    assert line.startswith("step 20/100  104,857,600 tokens  loss nan  grad norm")


def test_the_sink_logs_intervals_and_validations(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sink = open_sink(
        SinkContext(
            run=RunFolder(tmp_path), resumed_step=0, max_steps=247_955, per="/GPU", config={}
        )
    )
    values = {name: value for name, value in RECORD.items() if name != "step"}
    sink.write(MetricsRecord(kind="interval", step=20, values=values))
    sink.write(MetricsRecord(kind="validation", step=20, values={"validation_loss": 2.5}))
    sink.close()
    assert caplog.messages[0] == console_line(RECORD, 247_955)
    assert caplog.messages[1] == "step 20  validation_loss 2.5000"
