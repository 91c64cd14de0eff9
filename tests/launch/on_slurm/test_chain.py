"""The whole chain on a real Slurm: the same bytes and weights as on one machine."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mobilellama.launch.main import main
from mobilellama.pretrain.main import main as pretrain_main
from tests.helpers.ranks import run_ranks
from tests.launch.helpers.cluster import Cluster
from tests.launch.helpers.jobs import RANKS, assert_same_weights, wait_for

pytestmark = pytest.mark.slow

STEPS = 4
DEMO: dict[str, Any] = {
    "config": "demo",
    "train.max_steps": STEPS,
    "distributed.threads": 1,
    "validation.every_steps": None,
}


def train_demo(dataset: Path, run: Path) -> int:
    """Train the demo's model in this process (a rank)."""
    fields = DEMO | {"data.path": dataset, "run.folder": run}
    pairs = [(f"--{n}", "null" if v is None else str(v)) for n, v in fields.items()]
    return pretrain_main(["run", *itertools.chain.from_iterable(pairs)])


def chain(corpus: Path, tokenizer: Path, out: Path, *, data: Path | None = None) -> dict[str, Any]:
    """Return a pipeline's file; with `data` the training looks for its dataset there."""
    tokenise = {
        "tokenizer": str(tokenizer),
        "sources": {"root": str(corpus)},
        "output": str(out / "data"),
        "heldout_share": 0.02,
    }
    train = DEMO | {
        "data": {"path": str(data or out / "data")},
        "run": {"folder": str(out / "run")},
    }
    export = {"checkpoint": str(out / "run"), "output": str(out / "model")}
    return {
        "slurm": {
            "gpus_per_node": 0, "tasks_per_node": 2, "time": "10", "warn_s": 30,
            "min_scratch_gib": 0.01, "health_s": 120,
        },
        "steps": [
            # Half a node's processors each: four tasks take two nodes.
            {"step": "tokenize", "args": tokenise, "slurm": {"tasks": 4, "cpus_per_task": 32}},
            {"step": "pretrain", "args": train, "slurm": {"nodes": 2}},
            {"step": "export", "args": export},
        ],
    }  # fmt: skip


def write_chain(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def status(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["status", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_chain_makes_the_bytes_and_weights_of_one_machine(
    slurm: Cluster,
    small_corpus: Path,
    small_tokenizer: Path,
    small_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Four tasks on two nodes, a finish, 2 nodes x 2 ranks of ZeRO-1 with health check, an export.

    The chain is submitted twice: first with a mistake, which leaves what follows held; then as it
    should be, which does not tokenise again.
    """
    out = tmp_path / "chain"
    broken = chain(small_corpus, small_tokenizer, out, data=tmp_path / "nowhere")
    first = str(write_chain(tmp_path / "1.yaml", broken))
    assert main(["pipeline", "--config", first, "--no-check"]) == 0  # else it is refused at once
    wait_for(lambda: status(out / "run", capsys)["state"] == "failed", "the mistake's failure")
    failed = status(out / "run", capsys)
    assert f"data.path = {tmp_path / 'nowhere'}" in failed["message"]
    assert failed["parts"][0]["restarts"] == 0
    wait_for(lambda: status(out / "model", capsys)["state"] == "held", "the export to be held")
    held = status(out / "model", capsys)
    assert "DependencyNeverSatisfied" in held["parts"][0]["reason"]

    tokens = json.loads((out / "data" / "dataset.json").read_text())
    local = json.loads((small_dataset / "dataset.json").read_text())
    assert tokens["fingerprint"] == local["fingerprint"]
    tasks = json.loads((out / "data.launch" / "launch.json").read_text())["jobs"][0]["id"]
    records = slurm.run("scontrol", "show", "job", "-o", tasks).stdout.splitlines()
    assert len(records) == 4
    assert len({record.partition(" NodeList=")[2].split()[0] for record in records}) == 2

    fixed = write_chain(tmp_path / "2.yaml", chain(small_corpus, small_tokenizer, out))
    assert main(["pipeline", "--config", str(fixed)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["tokenize", "done"] in rows
    wait_for(
        lambda: status(out / "model", capsys)["state"] == "finished", "the export", timeout_s=240
    )
    assert status(out / "run", capsys)["state"] == "finished"
    assert (out / "model" / "model.safetensors").is_file()
    attempt = json.loads((out / "run" / "attempts" / "0001.json").read_text())
    assert attempt["world_size"] == RANKS
    assert attempt["config"]["engine"]["kind"] == "deepspeed"
    [well] = {path.read_text().startswith("OK") for path in out.glob("run/logs/*/health/node[0-9]")}
    assert well

    run_ranks(train_demo, RANKS, small_dataset, tmp_path / "local")
    assert_same_weights(out / "run", tmp_path / "local", STEPS)

    capsys.readouterr()
    assert main(["pipeline", "--config", str(fixed)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [["tokenize", "done"], ["pretrain", "done"], ["export", "done"]]
