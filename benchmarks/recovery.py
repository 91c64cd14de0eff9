r"""From a disturbance to training again, on a real SLURM of virtual nodes on this machine.

Each disturbance hits a run on 2 of 3 nodes, 2 processes each, and beside it the floor: a job of
one line on the same nodes, which SLURM restarts after the same disturbance, and the bare command
under srun, which starts without our script. What our job script and the requeue add is

    (disturbed to training again) / (the floor's restart + the bare start)

The run is the demo's model. SLURM's own delays are set as short as they go (SlurmdTimeout 6 s,
cred_expire 5 s); at most sites they are 300 s and 120 s, and recovery takes that much longer.

After make demo:

    python benchmarks/recovery.py --dataset runs/demo/dataset --health full \
        --output benchmarks/results/recovery_health_full.json
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paired

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tests' SLURM

from mobilellama.run_folder import RunFolder  # noqa: E402
from tests.launch.helpers.cluster import Cluster  # noqa: E402

_POLL_S = 0.05
_LIMIT_S = 300.0
_FLOOR = "trap 'exit 0' USR1; date +%s.%N >> {marks}; while :; do sleep 0.1; done"

Disturb = Callable[[Cluster, str], None]


def kill_a_node(cluster: Cluster, job: str) -> None:
    """Pull the plug of the job's second node."""
    del job
    cluster.kill_node("node2")


def preempt(cluster: Cluster, job: str) -> None:
    """Let a job of a higher partition take all nodes for a second."""
    del job
    cluster.sbatch("-p", "urgent", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")


def requeue(cluster: Cluster, job: str) -> None:
    """Requeue it by hand."""
    cluster.run("scontrol", "requeue", job)


DISTURBANCES: dict[str, Disturb] = {
    "node killed": kill_a_node,
    "preempted": preempt,
    "requeued by hand": requeue,
}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds."""
    end_s = time.monotonic() + _LIMIT_S
    while not condition():
        if time.monotonic() > end_s:
            sys.exit(f"recovery: {what} took over {_LIMIT_S:g} s")
        time.sleep(_POLL_S)


def steps(run: Path, attempt: int) -> int:
    """Return the records that an attempt has added, once it is there."""
    folder = RunFolder(run)
    if folder.newest_attempt() < attempt:
        return -1
    return len(folder.read_metrics())


def fields(dataset: Path, run: Path) -> list[str]:
    """Return the training's command line."""
    return [
        "--config=demo", f"--data.path={dataset}", f"--run.folder={run}",
        "--train.max_steps=1000000", "--train.global_batch_size=8", "--train.micro_batch_size=2",
        "--metrics.every_steps=1", "--validation.every_steps=null", "--checkpoint.every_steps=20",
        "--distributed.threads=1",
    ]  # fmt: skip


def recovery_s(cluster: Cluster, dataset: Path, run: Path, disturb: Disturb, health: str) -> float:
    """Return the seconds from a disturbance of our job to the next start's first step."""
    words = [
        "launch", "pretrain", *fields(dataset, run), "--no-check", "--slurm.nodes=2",
        "--slurm.gpus_per_node=0", "--slurm.tasks_per_node=2", "--slurm.warn_s=30",
        f"--slurm.health={health}",
    ]  # fmt: skip
    cluster.run(sys.executable, "-m", "mobilellama", *words, cwd=ROOT)
    job = cluster.run("squeue", "-h", "--name", run.name, "-o", "%A").stdout.strip()
    wait_for(lambda: steps(run, 1) >= 25, "the first steps")
    started_s = time.monotonic()
    disturb(cluster, job)
    wait_for(lambda: RunFolder(run).newest_attempt() > 1, "a second start")
    cut_s = time.monotonic()
    at = steps(run, 2)
    # metrics.jsonl is cut back at the start of the second; then it grows again.
    while steps(run, 2) <= at and time.monotonic() - cut_s < _LIMIT_S:
        at = min(at, steps(run, 2))
        time.sleep(_POLL_S)
    seconds = time.monotonic() - started_s
    cluster.restore()
    return seconds


def floor_s(cluster: Cluster, folder: Path, disturb: Disturb) -> float:
    """Return the seconds from the same disturbance to the restart of a job of one line."""
    marks = folder / f"marks-{time.time_ns()}"
    job = cluster.sbatch(
        "-N2", "--exclusive", "--requeue", "--open-mode=append", "-o", "/dev/null",
        "--wrap", _FLOOR.format(marks=marks),
    )  # fmt: skip
    wait_for(marks.is_file, "the floor's start")
    started_s = time.time()
    disturb(cluster, job)
    wait_for(lambda: len(marks.read_text().split()) > 1, "the floor's restart")
    seconds = float(marks.read_text().split()[1]) - started_s
    cluster.restore()
    return seconds


def bare_start_s(cluster: Cluster, dataset: Path, run: Path) -> float:
    """Return the seconds from srun to the first step, without our script."""
    command = [sys.executable, "-m", "mobilellama", "pretrain", "run", *fields(dataset, run)]
    words = ["srun", "-N2", "--ntasks-per-node=2", "--exclusive", "-J", "bare", *command]
    started_s = time.monotonic()
    process = subprocess.Popen(
        words, env=cluster_environment(cluster), cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: steps(run, 1) >= 1, "the bare start")
    seconds = time.monotonic() - started_s
    cluster.restore()
    process.wait()
    return seconds


def cluster_environment(cluster: Cluster) -> dict[str, str]:
    """Return the environment of a client of the cluster."""
    return os.environ | cluster.env


def main() -> None:
    """Measure and write results/recovery_health_HEALTH.json."""
    options = paired.arguments(__doc__, dataset="runs/demo/dataset", rounds=3, health="full")
    dataset = Path(options.dataset).absolute()
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in DISTURBANCES}
    with (
        tempfile.TemporaryDirectory() as place,
        Cluster(nodes=3, slurmd_timeout=6, kill_wait=3, cred_expire=5, grace=5) as cluster,
    ):
        for i in range(options.rounds):
            for name, disturb in DISTURBANCES.items():
                key = f"{name.replace(' ', '-')}-{i}"
                row = {
                    "ours_s": recovery_s(
                        cluster, dataset, Path(place) / key, disturb, options.health
                    ),
                    "floor_s": floor_s(cluster, Path(place), disturb),
                    "bare_start_s": bare_start_s(cluster, dataset, Path(place) / f"bare-{key}"),
                }
                row["ratio"] = row["ours_s"] / (row["floor_s"] + row["bare_start_s"])
                seconds[name].append({k: round(v, 2) for k, v in row.items()})
                print(name, seconds[name][-1], flush=True)
    paired.save({"what": __doc__, **summary(seconds, options.rounds)}, options)


def summary(seconds: dict[str, list[dict[str, float]]], rounds: int) -> dict[str, Any]:
    """Return medians, and the ratios' range."""
    shown = {}
    for name, rows in seconds.items():
        ratios = [row["ratio"] for row in rows]
        medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        shown[name] = medians | {"ratio_min": min(ratios), "ratio_max": max(ratios)}
    return {"rounds": rounds, "seconds": shown}


if __name__ == "__main__":
    main()
