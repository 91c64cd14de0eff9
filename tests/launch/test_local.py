"""``--local``: the rules of a cluster's job script, on this machine."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mobilellama.launch.launched.status import Config as StatusConfig
from mobilellama.launch.launched.status import main as status_main
from mobilellama.run_folder import RunFolder
from tests.launch.helpers.jobs import (
    SLOW,
    as_words,
    assert_same_weights,
    undisturbed,
    wait_for,
    wait_for_step,
)
from tests.pretrain.helpers.tiny import TINY

pytestmark = pytest.mark.slow

RANKS = 2
STEPS = 50


def start(dataset: Path, run: Path, fields: dict[str, Any]) -> subprocess.Popen[str]:
    """Start a local launch of the tiny model."""
    given = TINY | SLOW | {"data.path": dataset, "run.folder": run} | fields
    words = ["pretrain", *as_words(given), "--local", f"--processes={RANKS}", "--no-check"]
    return subprocess.Popen(
        [sys.executable, "-m", "mobilellama", "launch", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def ranks_of(run: Path) -> list[int]:
    """Return the processes that train into a run."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        trains = f"--run.folder={run}".encode() in words and b"launch" not in words
        if trains and any(name.startswith(b"LOCAL_RANK=") for name in variables):
            found.append(int(entry.name))
    return found


def test_a_killed_rank_and_a_ctrl_c_cost_nothing(small_dataset: Path, tmp_path: Path) -> None:
    """Killed, started again by itself, stopped by Ctrl-C, started again by hand: the same bits."""
    run = tmp_path / "run"
    fields = {"train.max_steps": STEPS}
    process = start(small_dataset, run, fields)
    wait_for_step(run, 8)
    os.kill(ranks_of(run)[-1], signal.SIGKILL)
    wait_for(lambda: RunFolder(run).newest_attempt() == 2, "a second start")
    at = wait_for_step(run, 8, attempt=2)
    wait_for_step(run, at + 2)
    os.kill(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert ": Ctrl-C" in said
    assert "failure 1 of 3 with step" in said and "asking it to save and stop" in said
    verdict = RunFolder(run).read_verdict()
    assert verdict is not None and (verdict.kind, verdict.attempt) == ("stopped", 2)
    assert ranks_of(run) == []

    process = start(small_dataset, run, fields)
    assert "finished at step" in process.communicate(timeout=240)[0]
    assert process.returncode == 0
    whole = undisturbed(small_dataset, tmp_path / "whole", fields, ranks=RANKS)
    assert_same_weights(run, whole, STEPS)


def test_a_mistake_ends_it_at_once_and_a_crash_after_three_times(
    small_dataset: Path, tmp_path: Path
) -> None:
    mistaken = tmp_path / "mistaken"
    process = start(tmp_path / "nowhere", mistaken, {})
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    assert said.count("start on this machine") == said.count("mobilellama: error:") == 1
    assert f"data.path = {tmp_path / 'nowhere'}" in said.splitlines()[-1]

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sentencepiece.py").write_text("import os\nos._exit(13)\n")
    environment = os.environ | {"PYTHONPATH": str(broken)}
    words = as_words(TINY | {"data.path": small_dataset, "run.folder": tmp_path / "crashed"})
    done = subprocess.run(
        [
            sys.executable, "-m", "mobilellama", "launch", "pretrain", *words, "--local",
            "--processes=1", "--no-check", "--slurm.max_failures=2",
        ],
        capture_output=True, text=True, check=False, timeout=120, env=environment,
    )  # fmt: skip
    assert done.returncode == 2
    assert "2 times in a row with step 0 saved" in done.stderr.splitlines()[-1]
    failed = tmp_path / "crashed" / "launch" / "run.failed"
    assert "2 times in a row" in failed.read_text()


def test_a_pipeline_runs_here_and_is_not_done_twice(
    small_corpus: Path, small_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = TINY | {"train.max_steps": 2, "data.path": str(tmp_path / "data")}
    steps = [
        {"step": "tokenize", "args": {
            "tokenizer": str(small_tokenizer), "sources": {"root": str(small_corpus)},
            "output": str(tmp_path / "data"), "heldout_share": 0.02, "workers": 2,
        }},
        {"step": "pretrain", "args": train | {"run.folder": str(tmp_path / "run")}},
        {"step": "export", "args": {
            "checkpoint": str(tmp_path / "run"), "output": str(tmp_path / "model"),
        }},
    ]  # fmt: skip
    (tmp_path / "pipeline.yaml").write_text(json.dumps({"steps": steps}))
    command = [sys.executable, "-m", "mobilellama", "launch", "pipeline", "--local", "--no-check"]
    command += ["--processes=1", f"--config={tmp_path / 'pipeline.yaml'}"]
    first = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "model" / "model.safetensors").is_file()
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert again.returncode == 0
    said = [line.partition(" I ")[2] for line in again.stderr.splitlines()]
    assert said == ["tokenize: done", "pretrain: done", "export: done"]
    assert RunFolder(tmp_path / "run").newest_attempt() == 1
    assert not list(itertools.chain(tmp_path.glob("*.tmp*")))
    assert status_main(StatusConfig(json=True)) == 0
    shown = [(s["step"], s["state"], s["is_local"]) for s in json.loads(capsys.readouterr().out)]
    assert shown == [(s, "finished", True) for s in ("tokenize", "pretrain", "export")]
