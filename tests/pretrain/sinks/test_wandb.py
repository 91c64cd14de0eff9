"""Weights & Biases, in its offline mode: no network."""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.sinks.sink import require_modules
from mobilellama.pretrain.sinks.wandb import run_id
from mobilellama.run_folder import RunFolder

WRITE = """
import logging, math, sys
from pathlib import Path
from mobilellama.pretrain.sinks.sink import MetricsRecord, SinkContext, open_sinks
from mobilellama.run_folder import RunFolder

logging.basicConfig(level=logging.INFO, format="%(message)s")
run = RunFolder(sys.argv[1])
context = SinkContext(run=run, resumed_step=0, max_steps=4, per="", config={"train": {"seed": 7}})
sinks = open_sinks(["wandb"], context)
values = {"loss": 1.25, "grad_norm": math.inf, "mfu": None}
sinks.write(MetricsRecord(kind="interval", step=3, values=values))
sinks.close()
"""


def write(run: RunFolder, **environment: str) -> str:
    """Return what a process says that writes a record; it lives as long as W&B's own process."""

    clean = {name: its for name, its in os.environ.items() if not name.startswith("WANDB_")}
    home = {"HOME": str(run.path), "WANDB_CONFIG_DIR": str(run.path), "NETRC": os.devnull}
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(run.path)],
        env=clean | home | environment, text=True, capture_output=True, timeout=100, check=True,
    )  # fmt: skip
    return done.stdout + done.stderr


def messages_of(path: Path) -> Iterator[bytes]:
    """Yield the messages of a short file of W&B's: LevelDB's log format behind 7 bytes."""
    data, at = path.read_bytes(), 7
    assert data.startswith(b":W&B") and len(data) < 32_768, "no block ends inside it"
    while at < len(data):
        _, count, kind = struct.unpack_from("<IHB", data, at)
        assert kind == 1, "a whole message"
        yield data[at + 7 : at + 7 + count]
        at += 7 + count


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.begin_attempt({"started": "now"})
    return folder


def test_an_offline_run_holds_the_finite_values_by_the_runs_own_step(run: RunFolder) -> None:
    protocol = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    said = write(run, WANDB_MODE="offline")
    assert "Weights & Biases: " in said and "no longer go" not in said
    (folder,) = (run.path / "wandb").glob("offline-run-*")
    assert folder.name.endswith(run_id(run))
    history, config = {}, {}
    for data in messages_of(folder / f"run-{run_id(run)}.wandb"):
        record = protocol.Record.FromString(data)
        for item in record.history.item:
            history[item.key or "/".join(item.nested_key)] = item.value_json
        for item in record.run.config.update:
            config[item.key] = item.value_json
    assert (history["step"], history["loss"]) == ("3", "1.25")
    assert "grad_norm" not in history and "mfu" not in history
    assert config["train"] == '{"seed":7}'


def test_nobody_logged_in_is_a_warning_and_never_a_question(run: RunFolder) -> None:
    pytest.importorskip("wandb")
    said = write(run, WANDB_BASE_URL="http://127.0.0.1:9")
    assert "metrics no longer go to wandb, which failed: " in said
    assert "WANDB_MODE=offline" in said


def test_attempts_of_a_run_share_an_id_that_no_other_run_has(
    run: RunFolder, tmp_path: Path
) -> None:
    before = run_id(run)
    run.begin_attempt({"started": "later"})
    assert run_id(run) == before
    other = RunFolder(tmp_path / "other")
    other.create()
    other.begin_attempt({"started": "now"})
    assert run_id(other) != before


def test_a_missing_package_is_told_before_processes_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilellama.pretrain.sinks.wandb.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"metrics.sinks = wandb: needs the package wandb"):
        require_modules(["console", "wandb"])
