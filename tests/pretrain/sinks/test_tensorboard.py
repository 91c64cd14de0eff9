"""TensorBoard's own reader reads what the sink wrote."""

import math
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mobilellama.pretrain.sinks.sink import MetricsRecord, SinkContext
from mobilellama.pretrain.sinks.tensorboard import open_sink
from mobilellama.run_folder import RunFolder


def context(run: RunFolder, *, resumed: int = 0) -> SinkContext:
    return SinkContext(run=run, resumed_step=resumed, max_steps=10, per="", config={})


def interval(step: int, **values: float | None) -> MetricsRecord:
    return MetricsRecord(kind="interval", step=step, values=values)


def scalars(run: RunFolder, tag: str) -> dict[int, float]:
    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_a_record_can_be_read_at_once_without_what_is_not_finite(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    sink = open_sink(context(run))
    assert not run.tensorboard.exists(), "an attempt that takes no step leaves no file"
    sink.write(interval(2, loss=2.5, grad_norm=math.inf, mfu=None))
    sink.write(interval(4, loss=1.5, grad_norm=0.5))
    assert scalars(run, "loss") == {2: 2.5, 4: 1.5}
    assert scalars(run, "grad_norm") == {4: 0.5}
    sink.close()


def test_a_resumed_run_hides_what_was_written_of_later_steps(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for resumed, steps in ((0, range(1, 6)), (3, range(4, 5))):
        sink = open_sink(context(run, resumed=resumed))
        for step in steps:
            sink.write(interval(step, loss=100 * resumed + step))
        sink.close()
    assert scalars(run, "loss") == {1: 1, 2: 2, 3: 3, 4: 304}


def test_a_run_whose_name_is_not_utf_8_has_its_file(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / os.fsdecode(b"caf\xe9"))
    sink = open_sink(context(run))
    sink.write(interval(1, loss=1.0))
    sink.close()
    (file,) = run.tensorboard.iterdir()
    moved = RunFolder(tmp_path / "moved")
    moved.tensorboard.mkdir(parents=True)
    file.rename(moved.tensorboard / file.name)
    assert scalars(moved, "loss") == {1: 1.0}


def test_a_file_in_the_place_of_the_folder_is_an_error_with_its_name(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.tensorboard.touch()
    sink = open_sink(context(run))
    with pytest.raises(FileExistsError, match="tensorboard"):
        sink.write(interval(1, loss=1.0))
    sink.close()
