"""What is submitted: real sbatch takes it, and a machine without Slurm says what to do."""

from pathlib import Path

import pytest

from mobilellama.config import UserError
from mobilellama.launch.main import main
from tests.launch.conftest import require_slurm
from tests.launch.helpers.cluster import Cluster

SHAPES = {
    "one node": ["pretrain", "--run.folder=RUN", "--slurm.nodes=1"],
    "20 x 8": [
        "pretrain", "--run.folder=RUN", "--slurm.nodes=20", "--slurm.gpus_per_node=8",
        "--slurm.partition=main", "--slurm.time=2-00:00:00", "--slurm.cpus_per_task=8",
        "--slurm.extra=--nice=10 --mail-type=END",
    ],
    "an array": [
        "tokenize", "--output=RUN", "--slurm.tasks=64", "--slurm.max_running=16",
        "--slurm.cpus_per_task=16", "--slurm.mem=64G",
    ],
    "one process with a GPU": ["evaluate", "--output=RUN"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("typed", ["", "a100"])
def test_sbatch_takes_every_shape_on_twenty_nodes_of_eight_gpus(
    typed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    require_slurm()
    with Cluster(nodes=20, gpus=8, gpu_type=typed) as cluster:
        monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
        for name, words in SHAPES.items():
            run = tmp_path / name.replace(" ", "_")
            options = [
                "--dry-run",
                "--no-check",
            ]  # the shapes alone: the stages' fields are not here
            assert main([word.replace("RUN", str(run)) for word in [*words, *options]]) == 0
            scripts = capsys.readouterr().out.split("#!/bin/bash\n")[1:]
            assert len(scripts) == (2 if name == "an array" else 1)
            for i, text in enumerate(scripts):
                script = tmp_path / f"{i}.sbatch"
                script.write_text(f"#!/bin/bash\n{text}")
                assert cluster.run("sbatch", "--test-only", script, check=False).returncode == 0
            assert not run.exists()  # a dry run leaves nothing
        script = tmp_path / "0.sbatch"
        script.write_text("#!/bin/bash\n#SBATCH --nodes=21 --gpus-per-node=8\ntrue\n")
        assert cluster.run("sbatch", "--test-only", script, check=False).returncode != 0


@pytest.mark.slow
def test_what_slurm_refuses_is_told_and_not_submitted(slurm: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["pretrain", "--no-check", f"--run.folder={run}", "--slurm.partition=nosuch"]
    with pytest.raises(UserError, match=r"sbatch --test-only refuses .*invalid partition.*doctor"):
        main(words)
    with pytest.raises(UserError, match=r"--test-only refuses"):
        main([*words[:3], "--slurm.gpus_per_node=9"])
    assert slurm.run("squeue", "-h").stdout == ""


def test_without_slurm_the_error_names_what_to_install_and_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"sbatch: not found.*slurm-client.*--local"):
        main(["pretrain", "--no-check", f"--run.folder={run}"])
    assert not run.exists()
