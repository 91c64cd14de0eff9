"""Secondary sinks: opened by name, and switched off by themselves where they fail."""

import logging
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.main import main
from mobilellama.pretrain.monitoring.config import MetricsConfig
from mobilellama.pretrain.sinks.sink import (
    SINKS,
    MetricsRecord,
    SinkContext,
    open_sinks,
    require_modules,
    require_names,
)
from mobilellama.run_folder import RunFolder


def context(folder: Path) -> SinkContext:
    run = RunFolder(folder)
    return SinkContext(run=run, resumed_step=3, max_steps=10, per="", config={"a": 1})


def interval(step: int, **values: float | None) -> MetricsRecord:
    return MetricsRecord(kind="interval", step=step, values=values or {"loss": 1.0})


USERS_SINK = """
class Keeper:
    def __init__(self, context):
        self.path = context.run.path / "kept.txt"

    def write(self, record):
        if record.step == 99:
            raise KeyError("a defect of the user's")
        with open(self.path, "a") as file:
            file.write(f"{record.kind} {record.step} {record.values}\\n")

    def close(self):
        with open(self.path, "a") as file:
            file.write("closed\\n")


def open_sink(context):
    return Keeper(context)
"""


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a sink's module in a package of the user's."""
    package = tmp_path / "users_own"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "keeper.py").write_text(USERS_SINK)
    (package / "nothing.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "users_own.keeper"
    for name in [name for name in sys.modules if name.startswith("users_own")]:
        del sys.modules[name]


def test_a_users_module_is_a_sink_by_its_name(tmp_path: Path, users_module: str) -> None:
    sinks = open_sinks([users_module], context(tmp_path))
    sinks.write(interval(4, loss=2.0))
    sinks.write(MetricsRecord(kind="validation", step=4, values={"validation_loss": 3.0}))
    sinks.close()
    assert (tmp_path / "kept.txt").read_text().splitlines() == [
        "interval 4 {'loss': 2.0}",
        "validation 4 {'validation_loss': 3.0}",
        "closed",
    ]


def test_a_sink_that_fails_is_told_once_by_name_closed_and_left_out(
    tmp_path: Path, users_module: str, caplog: pytest.LogCaptureFixture
) -> None:
    sinks = open_sinks([users_module, "tensorboard"], context(tmp_path))
    for step in (4, 99, 99, 5):
        sinks.write(interval(step))
    sinks.close()
    assert (tmp_path / "kept.txt").read_text().splitlines() == [
        "interval 4 {'loss': 1.0}",
        "closed",
    ]
    (warning,) = caplog.messages
    assert warning == (
        'metrics no longer go to users_own.keeper, which failed: "a defect of the user\'s". '
        "Training goes on; metrics.jsonl has them all"
    )


def test_tensorboard_on_a_full_disk_is_switched_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """RLIMIT_FSIZE makes a write fail as a full disk does: in the middle of a file."""
    sinks = open_sinks(["tensorboard"], context(tmp_path))
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
    try:
        for step in range(100):
            sinks.write(interval(step, **{f"loss/{i}": 1.0 for i in range(10)}))
        sinks.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, former)
    (warning,) = caplog.messages
    assert "metrics no longer go to tensorboard, which failed: [Errno 27] File too" in warning
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert 0 < file.stat().st_size <= 2_000


def write_without_rights(folder: Path, pipe: Connection) -> None:
    """Send what the log says where the run's tensorboard/ is another user's."""
    if os.geteuid() == 0:
        os.setuid(65_534)
    messages: list[str] = []
    logger = logging.getLogger("mobilellama.pretrain.sinks.sink")
    logger.addFilter(lambda record: messages.append(record.getMessage()) or False)
    sinks = open_sinks(["tensorboard"], context(folder))
    sinks.write(interval(1))
    sinks.write(interval(2))
    sinks.close()
    pipe.send(messages)


def test_tensorboard_in_another_users_folder_is_switched_off() -> None:
    with TemporaryDirectory() as name:  # pytest's own lie in one that others may not enter
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "tensorboard").mkdir(mode=0o555)
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        process = context.Process(target=write_without_rights, args=(folder, there))
        process.start()
        process.join()
        (message,) = here.recv()
    assert "metrics no longer go to tensorboard, which failed: [Errno 13] Permission" in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", f"must be of {', '.join(SINKS)}.*did you mean 'tensorboard'"),
        ("jsonl", f"metrics.sinks = jsonl: must be of {', '.join(SINKS)}. Or give a module"),
    ],
)
def test_a_name_of_no_sink_is_refused_with_the_config(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MetricsConfig(sinks=["console", name])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("users_own.absent", "metrics.sinks = users_own.absent: cannot be imported"),
        ("users_own.nothing", "metrics.sinks = users_own.nothing: has no function open_sink"),
        ("users_own.broken", r"users_own.broken: cannot be imported \(division by zero\)"),
    ],
)
def test_a_module_that_is_no_sink_is_refused_before_processes_start(
    tmp_path: Path, users_module: str, name: str, message: str
) -> None:
    (tmp_path / "users_own" / "broken.py").write_text("1 / 0\n")
    require_modules([users_module, "console"])
    with pytest.raises(ConfigError, match=message):
        require_modules([users_module, name])
    with pytest.raises(ConfigError, match=message):
        main(["run", "--data.path=x", f"--run.folder={tmp_path}/run", f"--metrics.sinks={name}"])
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "kept.txt").exists()  # the user's own is imported, and not opened


def test_the_help_names_every_sink(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help", "metrics"])
    out = " ".join(capsys.readouterr().out.split())
    assert f"besides metrics.jsonl: {', '.join(SINKS)}, or your own module" in out


def test_a_sink_that_is_named_twice_is_refused() -> None:
    """It would be opened twice, and closed once."""
    with pytest.raises(ConfigError, match=r"metrics.sinks = wandb: is named twice. Name each sink"):
        require_names(["console", "wandb", "wandb"])
