"""A step as it is to be launched."""

from dataclasses import replace
from pathlib import Path

import pytest

from mobilellama.launch.config import SlurmConfig
from mobilellama.launch.folder import Job
from mobilellama.launch.submission.request import LaunchRequest


def request_of(step: str, *arguments: str, **slurm: object) -> LaunchRequest:
    config = replace(SlurmConfig(), **slurm)
    return LaunchRequest(step_name=step, arguments=[*arguments], slurm=config, cwd="/home/u")


def test_a_job_is_named_for_what_it_makes_in_signs_that_slurm_takes() -> None:
    assert request_of("pretrain", "--run.folder=/runs/1 4b é").name == "1-4b-"
    assert request_of("pretrain", "--run.folder=/runs/1_4b", job_name="mine").name == "mine"


def test_an_array_has_tasks_and_what_follows_them() -> None:
    request = request_of("tokenize", "--output=/data/red", tasks=64)
    assert [(s.part, s.name) for s in request.scripts(Path("/code"))] == [
        ("tasks", "red"),
        ("finish", "red-finish"),
    ]
    assert request.launch().tasks == 64
    assert request_of("pretrain", "--run.folder=/runs/a").launch().tasks == 0


def test_the_signature_is_of_the_work_not_of_where_it_runs() -> None:
    request = request_of("pretrain", "--run.folder=/runs/a", nodes=2)
    job = Job(part="run", id="7", script="job.sbatch")
    same = request_of("pretrain", "--run.folder=/runs/a", nodes=20).launch([job])
    assert request.launch().signature == same.signature
    other = request_of("pretrain", "--run.folder=/runs/a", "--train.max_steps=5").launch()
    assert request.launch().signature != other.signature


def test_the_copies_of_config_files_are_what_the_job_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("train: {max_steps: 5}\n")
    request = request_of("pretrain", "--run.folder=run", "--config", "recipe.yaml")
    request.folder.create()
    request.write_configs()
    Path("recipe.yaml").write_text("train: {max_steps: 6}\n")
    (copy,) = (tmp_path / "run" / "launch").glob("config-*.yaml")
    assert copy.read_text() == "train: {max_steps: 5}\n"
    assert f"--config={copy}" not in request.launch().arguments  # the edit is other work
