"""A user's mistakes, on a real Slurm: said at once, once, and nothing else is disturbed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError, UserError
from mobilellama.launch.main import main
from tests.launch.helpers.cluster import Cluster
from tests.launch.helpers.jobs import (
    ON_TWO_NODES,
    as_words,
    batch_log,
    launch,
    pretrain,
    wait_for,
    wait_for_end,
    wait_for_step,
)
from tests.pretrain.helpers.tiny import TINY

pytestmark = pytest.mark.slow


def status(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["status", str(folder)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data.path", "/nowhere/data", "data.path = /nowhere/data: "),
        ("train.max_steps", "many", "train.max_steps = many: expected an int"),
        ("train.global_batch_size", 7, "train.global_batch_size = 7: must be a multiple of"),
    ],
)
def test_a_mistake_fails_one_job_without_a_requeue_and_status_says_it(
    slurm: Cluster,
    small_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    field: str,
    value: object,
    message: str,
) -> None:
    run = tmp_path / "run"
    given = TINY | ON_TWO_NODES | {"data.path": small_dataset, "run.folder": run, field: value}
    record = wait_for_end(slurm, launch("pretrain", given))
    assert (record["JobState"], record["Restarts"]) == ("FAILED", "0")
    shown = status(run, capsys)
    assert "run: pretrain, failed" in shown
    assert message in shown


def test_the_check_refuses_a_mistake_before_anything_is_submitted(
    slurm: Cluster, small_dataset: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fields = ON_TWO_NODES | {"config": "demo", "run.folder": run, "data.path": small_dataset}
    with pytest.raises(UserError, match=r"train\.max_stps.*did you mean '--train\.max_steps'"):
        main(["pretrain", *as_words(fields), "--train.max_stps", "3"])
    del fields["data.path"]
    with pytest.raises(ConfigError, match=r"--data\.path = \(not given\): is required"):
        main(["pretrain", *as_words(fields)])
    assert not run.exists()
    assert slurm.run("squeue", "-h").stdout == ""


def test_an_array_of_more_tasks_than_the_cluster_takes_is_refused_before_anything_is_submitted(
    slurm: Cluster, small_corpus: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "data"
    fields = {"tokenizer": small_tokenizer, "sources.root": small_corpus, "output": out}
    said = (
        r"slurm\.tasks = 1,002: is more than a job array of this cluster holds \(MaxArraySize = "
        r"1,001\)\. Give 1,001 or fewer: each task does more slices"
    )
    with pytest.raises(ConfigError, match=said):
        main(["tokenize", *as_words(fields), "--slurm.tasks", "1002"])
    assert not list(tmp_path.iterdir())
    export = {"checkpoint": str(tmp_path / "run"), "output": str(tmp_path / "model")}
    given = {name: str(value) for name, value in fields.items()}
    steps = [
        {"step": "export", "args": export},
        {"step": "tokenize", "args": given, "slurm": {"tasks": 1002}},
    ]
    chain = tmp_path / "chain.yaml"
    chain.write_text(json.dumps({"steps": steps}))
    with pytest.raises(UserError, match=f"nothing was submitted:\n.*tokenize: {said}"):
        main(["pipeline", "--config", str(chain), "--no-check"])
    assert slurm.run("squeue", "-h").stdout == ""
    launch("tokenize", fields | {"slurm.tasks": 1001})  # the largest array that Slurm takes
    slurm.run("scancel", "--me")


def test_a_job_that_crashes_three_times_at_the_same_step_gives_up_and_says_so(
    slurm: Cluster, small_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A module that ends the process stands for a fault that no verdict tells of."""
    run, broken = tmp_path / "run", tmp_path / "broken"
    broken.mkdir()
    (broken / "sentencepiece.py").write_text("import os\nos._exit(13)\n")
    fields = {"slurm.setup": json.dumps([f"export PYTHONPATH={broken}"]), "train.max_steps": 5}
    record = wait_for_end(slurm, pretrain(small_dataset, run, fields))
    assert (record["JobState"], record["Restarts"]) == ("FAILED", "2")
    shown = status(run, capsys)
    assert "3 times in a row with step 0 saved" in shown
    assert "failure 2 of 3 with step 0 saved" in batch_log(run)


def test_a_bad_node_is_excluded_and_the_job_runs_on_the_others(
    slurm: Cluster, small_dataset: Path, tmp_path: Path
) -> None:
    """A program of nvidia-smi's name, which finds 7 of 8 GPUs on the first node."""
    run, tools = tmp_path / "run", tmp_path / "bin"
    tools.mkdir()
    smi = tools / "nvidia-smi"
    smi.write_text(
        "#!/bin/bash\n"
        'n=8; [ "$SLURMD_NODENAME" = node1 ] && n=7\n'
        'for i in $(seq 0 $((n - 1))); do echo "$i, GPU-$i, 3"; done\n'
    )
    smi.chmod(0o755)
    fields: dict[str, Any] = {
        "slurm.setup": json.dumps([f"export PATH={tools}:$PATH"]),
        "slurm.nodes": 2, "slurm.tasks_per_node": 2, "slurm.gpus_per_node": 8,
        "slurm.health": "node", "train.max_steps": 3,
    }  # fmt: skip
    record = wait_for_end(slurm, pretrain(small_dataset, run, fields))
    assert (record["JobState"], record["Restarts"]) == ("COMPLETED", "1")
    assert (record["NodeList"], record["ExcNodeList"]) == ("node[2-3]", "node1")
    assert "node1 is not well: BAD GPUs: 7 of 8 answer" in batch_log(run)


def test_two_runs_of_a_name_are_refused_and_ctrl_c_of_the_logs_leaves_the_job_alone(
    slurm: Cluster, small_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fields = {"train.max_steps": 100_000}
    job = pretrain(small_dataset, run, fields)
    with pytest.raises(UserError, match=f"job {job} of it is in the queue already"):
        pretrain(small_dataset, run, fields)
    with pytest.raises(
        ConfigError, match=rf"slurm\.job_name = run: is already the name of your job {job}"
    ):
        pretrain(small_dataset, tmp_path / "other" / "run", fields)

    wait_for_step(run, 2)
    words = ["launch", "logs", str(run), "--rank", "0", "--follow"]
    following = subprocess.Popen(
        [sys.executable, "-m", "mobilellama", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert following.stdout is not None
    for line in following.stdout:
        if " step 3/" in line:
            break
    os.killpg(following.pid, signal.SIGINT)
    assert following.wait(timeout=20) == 130
    at = wait_for_step(run, 4)
    time.sleep(1)
    wait_for_step(run, at + 1)
    assert slurm.job(job)["JobState"] == "RUNNING"
    capsys.readouterr()
    assert main(["status"]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[0] == "run"  # its age follows, in two words
    assert row[3:7] == ["pretrain", job, "running", "node[1-2]"]


def test_where_users_may_not_requeue_the_script_submits_itself_again(
    slurm: Cluster, small_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    job = pretrain(
        small_dataset, run, {"train.max_steps": 100, "slurm.extra": "--no-requeue"}
    )  # the last of two options holds
    wait_for_step(run, 2)
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    resubmitted = run / "launch" / "run.resubmitted"
    wait_for(resubmitted.is_file, "the script to submit itself")
    following = resubmitted.read_text().strip()
    assert wait_for_end(slurm, following)["JobState"] == "COMPLETED"
    assert "run: pretrain, finished" in status(run, capsys)


def test_an_array_with_a_bad_file_is_mended_by_submitting_its_task_alone(
    slurm: Cluster,
    small_corpus: Path,
    small_tokenizer: Path,
    small_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Five tasks, a file each. One is damaged, in its place and size; then it is as it was."""
    corpus, out = tmp_path / "corpus", tmp_path / "data"
    shutil.copytree(small_corpus, corpus)
    [bad, *_] = sorted(corpus.rglob("*.zst"))
    whole = bad.read_bytes()
    bad.write_bytes(whole[:1000] + bytes(1000) + whole[2000:])
    fields = {
        "tokenizer": small_tokenizer, "sources.root": corpus, "output": out,
        "heldout_share": 0.02, "slurm.tasks": 5, "slurm.time": "10", "slurm.warn_s": 30,
    }  # fmt: skip
    job = launch("tokenize", fields)
    wait_for(lambda: "DependencyNeverSatisfied" in status(out, capsys), "the finish to be held")
    shown = status(out, capsys)
    assert "data: tokenize, failed" in shown and "4 of 5 done, 1 failed" in shown
    assert bad.name in shown.partition("task 0: ")[2]
    assert slurm.job(f"{job}_0")["Restarts"] == "0"

    bad.write_bytes(whole)
    again = launch("tokenize", fields)
    records = slurm.run("scontrol", "show", "job", "-o", again).stdout.splitlines()
    assert len(records) == 1 and " ArrayTaskId=0 " in records[0]
    wait_for(lambda: "data: tokenize, finished" in status(out, capsys), "the dataset")
    fingerprints = [
        json.loads((folder / "dataset.json").read_text())["fingerprint"]
        for folder in (out, small_dataset)
    ]
    assert fingerprints[0] == fingerprints[1]
