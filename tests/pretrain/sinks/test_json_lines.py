"""metrics.jsonl: whole over restarts, and named where it cannot be written."""

import json
import math
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from mobilellama.pretrain.sinks.json_lines import JsonLines, cut_back
from mobilellama.pretrain.sinks.sink import MetricsRecord
from mobilellama.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return folder


def records(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


@pytest.mark.parametrize(
    "torn",
    ["", '{"step": 7, "lo', '{"step": 7}', "\n"],
    ids=["none", "half", "no newline", "empty"],
)
def test_metrics_are_cut_back_to_the_step_resumed_from(run: RunFolder, torn: str) -> None:
    run.metrics.write_text("".join(f'{{"step": {step}}}\n' for step in (2, 4, 4, 6)) + torn)
    cut_back(run, 4)
    assert run.metrics.read_text() == '{"step": 2}\n{"step": 4}\n{"step": 4}\n'
    assert list(run.path.glob("metrics*")) == [run.metrics]


def test_a_line_whose_newline_was_lost_does_not_run_into_the_next(run: RunFolder) -> None:
    """A kill can come after the record's bytes and before the newline's."""
    run.metrics.write_text('{"step": 2}\n{"step": 4}')
    cut_back(run, 4)
    with open(run.metrics, "a") as file:
        file.write('{"step": 6}\n')
    assert [record["step"] for record in records(run)] == [2, 4, 6]


def test_cutting_back_a_run_without_metrics_makes_no_file(run: RunFolder) -> None:
    cut_back(run, 0)
    assert not run.metrics.exists()


def interval(step: int, **values: float | None) -> MetricsRecord:
    return MetricsRecord(kind="interval", step=step, values=values)


def test_records_follow_those_up_to_the_step_resumed_from(run: RunFolder) -> None:
    first = JsonLines(run, resumed_step=0)
    for step in (2, 4, 6):
        first.write(interval(step, loss=1.0 / step))
    JsonLines(run, resumed_step=4).write(interval(6, loss=0.5, grad_norm=math.inf, mfu=None))
    assert records(run) == [
        {"step": 2, "loss": 0.5},
        {"step": 4, "loss": 0.25},
        {"step": 6, "loss": 0.5, "grad_norm": None, "mfu": None},
    ]


def test_a_full_disk_is_an_error_that_names_the_file(run: RunFolder) -> None:
    """RLIMIT_FSIZE makes a write fail as a full disk does."""
    lines = JsonLines(run, resumed_step=0)
    lines.write(interval(2, loss=1.0))
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (run.metrics.stat().st_size + 4, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            lines.write(interval(4, loss=1.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, former)
    assert caught.value.filename == os.fspath(run.metrics)
    # What was cut short does not count.
    JsonLines(run, resumed_step=4)
    assert records(run) == [{"step": 2, "loss": 1.0}]


def test_a_device_that_is_full_is_named_too(run: RunFolder) -> None:
    lines = JsonLines(run, resumed_step=0)
    run.metrics.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        lines.write(interval(2, loss=1.0))
    assert caught.value.filename == os.fspath(run.metrics)
