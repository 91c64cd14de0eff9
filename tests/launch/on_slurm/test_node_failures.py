"""Nodes that die, hang or are cut off, on a real Slurm: nothing is lost, nobody writes twice."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mobilellama.launch.main import main
from mobilellama.run_folder import RunFolder
from mobilellama.tokenize.main import main as tokenize_main
from tests.launch.helpers.cluster import Cluster
from tests.launch.helpers.jobs import (
    assert_same_weights,
    batch_log,
    launch,
    pretrain,
    undisturbed,
    wait_for,
    wait_for_attempt,
    wait_for_end,
    wait_for_step,
)

pytestmark = pytest.mark.slow

STEPS = 150


@pytest.fixture(scope="module")
def undisturbed_run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing has disturbed."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    return undisturbed(small_dataset, run, {"train.max_steps": STEPS})


def status(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["status", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_node_that_dies_in_mid_training_costs_the_steps_since_the_checkpoint(
    slurm: Cluster,
    small_dataset: Path,
    undisturbed_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    # Saved at 40 and no more: what is taken after it is lost with the node.
    job = pretrain(small_dataset, run, {"train.max_steps": STEPS, "checkpoint.every_steps": 40})
    wait_for_step(run, 44)
    slurm.kill_node("node2")
    killed_s = time.monotonic()
    wait_for_attempt(run, 2, timeout_s=240)
    print(f"\nfrom the node's death to training again: {time.monotonic() - killed_s:.1f} s")
    record = wait_for_end(slurm, job)
    assert (record["JobState"], record["Restarts"]) == ("COMPLETED", "1")
    nodes = slurm.run("scontrol", "show", "hostnames", record["NodeList"]).stdout.split()
    assert nodes == ["node1", "node3"]
    assert_same_weights(run, undisturbed_run, STEPS)
    attempt = RunFolder(run).read_attempt(2)
    assert attempt["repeated_steps"] > 0 and attempt["saved_step"] in (40, 80, 120)
    assert status(run, capsys)["progress"]["repeated_steps"] == attempt["repeated_steps"]


def test_a_node_that_dies_in_mid_tokenising_costs_the_buckets_it_was_at(
    slurm: Cluster, small_corpus: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    for i in range(12):  # long enough to be killed in
        for path in small_corpus.rglob("*.jsonl*"):
            copy = corpus / path.parent.relative_to(small_corpus) / f"{i}_{path.name}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    out = tmp_path / "data"
    fields = {
        "tokenizer": small_tokenizer, "sources.root": corpus, "output": out, "workers": 1,
        "slice_bytes": 200_000, "slurm.tasks": 2, "slurm.cpus_per_task": 33, "slurm.time": "10",
        "slurm.warn_s": 30,
    }  # fmt: skip
    job = launch("tokenize", fields)
    by_node = {"node1": 0, "node2": 1}  # each task takes over half a node
    wait_for(lambda: len(list(out.glob("*/*.json"))) >= 4, "the first buckets", every_s=0.02)
    slurm.kill_node("node2")
    there = len(list(out.glob("*/*.json")))
    planned = len(json.loads((out / "plan.json").read_text())["slices"])
    assert there < planned
    finish = json.loads((tmp_path / "data.launch" / "launch.json").read_text())["jobs"][1]["id"]
    assert wait_for_end(slurm, finish)["JobState"] == "COMPLETED"
    task = slurm.job(f"{job}_{by_node['node2']}")
    assert (task["JobState"], task["Restarts"]) == ("COMPLETED", "1")
    assert not list(out.rglob("*.tmp.*"))

    local = tmp_path / "local"
    words = ["run", "--tokenizer", str(small_tokenizer), "--sources.root", str(corpus)]
    words += ["--output", str(local), "--slice_bytes", "200000", "--workers", "2"]
    assert tokenize_main(words) == 0
    got, expected = (json.loads((f / "dataset.json").read_text()) for f in (out, local))
    assert got["fingerprint"] == expected["fingerprint"]


def test_a_node_cut_off_the_network_is_left_and_the_job_goes_on_elsewhere(
    slurm_net: Cluster, small_dataset: Path, undisturbed_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = pretrain(small_dataset, run, {"train.max_steps": STEPS})
    wait_for_step(run, 10)
    slurm_net.cut("node2")
    cut_s = time.monotonic()
    wait_for_attempt(run, 2, timeout_s=240)
    print(f"\nfrom the cut to training again: {time.monotonic() - cut_s:.1f} s")
    record = wait_for_end(slurm_net, job)
    assert record["JobState"] == "COMPLETED" and int(record["Restarts"]) >= 1
    assert "node2" not in slurm_net.run("scontrol", "show", "hostnames", record["NodeList"]).stdout
    assert_same_weights(run, undisturbed_run, STEPS)


def test_where_a_daemon_dies_and_its_tasks_live_on_the_fence_keeps_them_from_writing(
    slurm: Cluster, small_dataset: Path, undisturbed_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fields = {"train.max_steps": STEPS, "slurm.nodes": 1, "slurm.tasks_per_node": 4}
    job = pretrain(small_dataset, run, fields)
    wait_for_step(run, 5)
    # The whole first start lives on, its job script too, on a node that Slurm believes dead.
    old = [int(pid) for pid in slurm.node_pids("node1")]
    stopped = [pid for pid in old if b"pretrain" in _command_line(pid)]
    assert stopped
    for pid in stopped:  # held, so that it cannot finish before the second start
        os.kill(pid, signal.SIGSTOP)
    slurm.kill_slurmd("node1")
    wait_for_attempt(run, 2, timeout_s=240)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    record = wait_for_end(slurm, job)
    assert (record["JobState"], record["Restarts"]) == ("COMPLETED", "1")
    old_log = (run / "logs" / f"{job}.0" / "rank-0.log").read_text
    wait_for(lambda: "attempt 1 was superseded by attempt 2" in old_log(), "the old ranks' end")
    wait_for(lambda: f"[{job}.0 node1] another start ({job}.1)" in batch_log(run), "its script")
    folder = RunFolder(run)
    newest = json.loads((folder.checkpoint(STEPS) / "manifest.json").read_text())
    assert newest["attempt"] == 2
    verdict = folder.read_verdict()
    assert verdict is not None and (verdict.kind, verdict.attempt) == ("finished", 2)
    assert_same_weights(run, undisturbed_run, STEPS)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_run_that_hangs_is_ended_by_the_watchdog_and_requeued(
    slurm: Cluster, small_dataset: Path, undisturbed_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = pretrain(small_dataset, run, {"train.max_steps": STEPS, "slurm.hang_minutes": 0.5})
    wait_for_step(run, 5)
    [rank] = [
        pid
        for pid in slurm.node_pids("node2")
        if b"pretrain" in _command_line(pid) and _variable(pid, "SLURM_PROCID") == "3"
        and b"srun" not in _command_line(pid)
    ]  # fmt: skip
    os.kill(rank, signal.SIGSTOP)
    wait_for_attempt(run, 2, timeout_s=240)
    assert "nothing was written for 0.5 minutes" in batch_log(run)
    assert wait_for_end(slurm, job)["Restarts"] == "1"
    assert_same_weights(run, undisturbed_run, STEPS)


def _variable(pid: int, name: str) -> str | None:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    found = [v for v in variables if v.startswith(f"{name}=".encode())]
    return found[0].decode().partition("=")[2] if found else None
