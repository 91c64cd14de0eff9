"""Jobs of a tiny model for the tests on a real Slurm, and what to wait for in them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mobilellama.launch.main import main
from mobilellama.run_folder import RunFolder
from tests.helpers.ranks import run_ranks
from tests.launch.helpers.cluster import Cluster
from tests.pretrain.helpers.stopped import state_of
from tests.pretrain.helpers.tiny import TINY, train_tiny

RANKS = 4
# Two nodes of two processes, as quick as a start can be; the health check has tests of its own.
ON_TWO_NODES = {
    "slurm.nodes": 2,
    "slurm.gpus_per_node": 0,
    "slurm.tasks_per_node": 2,
    "slurm.time": "10",
    "slurm.warn_s": 20,
    "slurm.min_scratch_gib": 0.01,
    "slurm.health": "none",
}
# Checkpoints and validation take most of a step's time and change no weight: the run is slow
# enough to be disturbed, and the one that it is compared with is not.
SLOW = {
    "distributed.threads": 1,
    "checkpoint.every_steps": 5,
    "validation.every_steps": 1,
    "validation.samples_per_subset": 64,
}
QUICK = {"distributed.threads": 1, "validation.every_steps": None}


def as_words(fields: dict[str, Any]) -> list[str]:
    """Return fields as options of the command line."""
    return [f"--{name}={'null' if value is None else value}" for name, value in fields.items()]


def launch(step: str, fields: dict[str, Any], *flags: str) -> str:
    """Launch a step without a check, which has a test of its own; return its first job."""
    assert main([step, *as_words(fields), "--no-check", *flags]) == 0
    folder = Path(fields.get("run.folder") or fields["output"])
    root = folder / "launch" if "run.folder" in fields else Path(f"{folder}.launch")
    return json.loads((root / "launch.json").read_text())["jobs"][0]["id"]


def pretrain(dataset: Path, run: Path, fields: dict[str, Any]) -> str:
    """Launch a pretraining of the tiny model; return its job."""
    given = TINY | SLOW | ON_TWO_NODES | fields
    return launch("pretrain", given | {"data.path": dataset, "run.folder": run})


def undisturbed(dataset: Path, run: Path, fields: dict[str, Any], *, ranks: int = RANKS) -> Path:
    """Train the same on as many processes of this machine, without a launcher."""
    run_ranks(train_tiny, ranks, dataset, run, QUICK | fields)
    return run


def assert_same_weights(run: Path, other: Path, step: int) -> None:
    """Check that two runs' weights and moments are the same bits."""
    got, expected = state_of(run, step), state_of(other, step)
    assert got.keys() == expected.keys() != set()
    assert [name for name in expected if not torch.equal(got[name], expected[name])] == []


def wait_for(
    condition: Callable[[], object], what: str, *, timeout_s: float = 120, every_s: float = 0.1
) -> None:
    """Wait until a condition holds."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"{what}: not in {timeout_s} s"
        time.sleep(every_s)


def steps_done(run: Path) -> int:
    """Return the newest step in a run's metrics."""
    return max((record["step"] for record in RunFolder(run).read_metrics()), default=0)


def wait_for_step(run: Path, step: int, *, attempt: int = 1, timeout_s: float = 120) -> int:
    """Wait until an attempt has taken a step; return the step it is at."""
    folder = RunFolder(run)

    def there() -> bool:
        return folder.newest_attempt() >= attempt and steps_done(run) >= step

    wait_for(there, f"attempt {attempt} to reach step {step}", timeout_s=timeout_s)
    return steps_done(run)


def wait_for_attempt(run: Path, attempt: int, *, timeout_s: float = 120) -> None:
    """Wait until an attempt trains: it has written metrics of its own."""
    folder = RunFolder(run)
    wait_for(lambda: folder.newest_attempt() >= attempt, f"attempt {attempt}", timeout_s=timeout_s)
    at = steps_done(run)
    wait_for(lambda: steps_done(run) > at, f"attempt {attempt} to train", timeout_s=timeout_s)


def wait_for_end(slurm: Cluster, job: str, *, timeout: float = 240) -> dict[str, str]:
    """Wait until a job is over; return Slurm's record of it."""
    return slurm.wait_job(job, timeout=timeout)


def batch_log(run: Path) -> str:
    """Return what the job script said, in all starts."""
    return "".join(path.read_text() for path in sorted((run / "logs").glob("batch-*.log")))
