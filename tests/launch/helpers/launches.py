"""Launches that are only folders, and what they would have left there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobilellama.launch.folder import Job, Launch, LaunchFolder
from mobilellama.launch.steps import STEPS

RUN = Launch(
    step="pretrain",
    name="1_4b",
    arguments=["--run.folder", "1_4b"],
    folder="1_4b",
    cwd="/home/u",
    submitted="2026-01-01T00:00:00+00:00",
    tasks=0,
    jobs=[Job(part="run", id="7", script="job.sbatch")],
)
LOCAL = replace(RUN, jobs=[])
TASKS = replace(
    RUN,
    step="tokenize",
    name="red",
    tasks=4,
    jobs=[
        Job(part="tasks", id="8", script="job.sbatch"),
        Job(part="finish", id="9", script="finish.sbatch"),
    ],
)
LOCAL_TASKS = replace(TASKS, jobs=[])


def launched(root: Path, launch: Launch) -> LaunchFolder:
    folder = LaunchFolder.of(STEPS[launch.step], root / launch.name)
    folder.create()
    folder.write(launch)
    return folder


def mark(folder: LaunchFolder, **marks: str) -> None:
    """Write marks; ``run_failed`` is ``run.failed``."""
    for name, text in marks.items():
        part, _, kind = name.rpartition("_")
        folder.mark(part, kind).write_text(f"{text}\n")


def trained(folder: LaunchFolder) -> None:
    """What a run of 16 processes leaves behind that was started twice."""
    run = folder.run
    assert run
    run.attempts.mkdir()
    facts: dict[str, Any] = {"host": "n1", "world_size": 16, "job": "7.0", "started": "10:00:00"}
    (run.attempts / "0001.json").write_text(json.dumps(facts | {"saved_step": 0}))
    facts |= {"job": "7.1", "started": "11:00:00", "repeated_steps": 7, "saved_step": 90}
    (run.attempts / "0002.json").write_text(json.dumps(facts))
    (run.checkpoints / "step-90").mkdir(parents=True)
    (run.checkpoints / "step-100").mkdir()
    (run.checkpoints / "step-110.tmp-2").mkdir()
    records = [
        {"step": 90, "loss": 3.5, "left_s": 1820.0, "step_s": 2.0, "tokens_per_s_per_gpu": 1.0},
        {"step": 100, "loss": 2.25, "left_s": 1800.0, "step_s": 2.0, "tokens_per_s_per_gpu": 500.0},
        {"step": 100, "val_loss": 2.5},
    ]
    run.metrics.write_text("".join(f"{json.dumps(record)}\n" for record in records) + '{"step":')
