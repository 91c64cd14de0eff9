"""The doctor without SLURM, and the whole on a real one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mobilellama.commandline.parser import parse_config
from mobilellama.launch.doctor import doctor
from mobilellama.launch.doctor.report import LOGIN_FILE
from tests.launch.helpers.cluster import Cluster

ROOT = Path(__file__).parents[3]
CPUS = ["--slurm.gpus_per_node=0", "--slurm.tasks_per_node=1"]


def config_of(*argv: str) -> doctor.Config:
    return parse_config(doctor.Config, argv, prog="mobilellama launch doctor", about="")


def run_doctor(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """Run it here; return its exit code and what it printed."""
    code = doctor.main(config_of(*argv))
    return code, capsys.readouterr().out


def test_without_slurm_the_rest_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, printed = run_doctor(capsys)
    first, remedy, rest, last = printed.splitlines()
    assert code == 1
    assert first.split(maxsplit=2)[:2] == ["bad", "commands"]
    assert "sbatch, srun, scontrol, squeue, scancel, sinfo: not found" in first
    assert "Run this on a login node of a SLURM cluster" in remedy
    assert rest.split() == ["skipped", "the", "rest", "needs", "SLURM's", "commands"]
    assert last == "1 skipped, 1 bad: commands"


def test_a_folder_that_is_not_there_yet_is_looked_at_where_it_will_be(tmp_path: Path) -> None:
    """'launch doctor --folder runs' is the first command of a new user, in a new folder."""
    with doctor.temporary_folder(str(tmp_path / "runs" / "mine")) as (folder, row):
        assert folder and folder.parent == tmp_path and (folder / LOGIN_FILE).is_file()
    assert row.verdict == "ok"
    assert row.found.startswith(
        f"{tmp_path}/runs/mine is not there yet, a launch makes it; {tmp_path} is writable, "
    )
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["a file", "a file/runs"])
def test_a_file_where_the_folder_would_be_is_bad(tmp_path: Path, name: str) -> None:
    (tmp_path / "a file").touch()
    with doctor.temporary_folder(str(tmp_path / name)) as (folder, row):
        assert folder is None
    assert row.verdict == "bad" and f"{tmp_path}/a file: Not a directory" in row.found


def test_a_path_that_cannot_be_looked_at_is_bad(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)  # no file system takes such a name
    with doctor.temporary_folder(str(path)) as (folder, row):
        assert folder is None
    assert row.verdict == "bad" and row.found == f"{path}: File name too long"
    assert [*tmp_path.iterdir()] == []


def assert_all_well(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = run_doctor(capsys, *CPUS, "--folder", str(folder / "runs"))
    assert code == 0, printed
    *rows, last = printed.splitlines()
    assert {row.split()[0] for row in rows} == {"ok"}, printed
    assert last == f"{len(rows)} ok"
    assert "2 of 2 processes reported" in printed
    assert "2 processes met" in printed
    assert "(bus bandwidth, 2 processes on 2 nodes)" in printed
    assert [*folder.iterdir()] == []


@pytest.mark.slow
def test_two_well_nodes_are_well(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_all_well(tmp_path, capsys)
    assert slurm.run("squeue", "-h").stdout == ""


@pytest.mark.slow
def test_two_well_nodes_with_a_network_between_them_are_well(
    slurm_net: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del slurm_net
    assert_all_well(tmp_path, capsys)


@pytest.mark.slow
def test_a_partition_that_is_not_there_is_bad(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*CPUS, "--slurm.partition", "urgnt", "--folder", str(tmp_path)]
    code, printed = run_doctor(capsys, *argv)
    assert code == 1
    assert "slurm.partition: no partition has this name" in printed
    assert "Give one of main, urgent; did you mean 'urgent'?" in printed
    assert "skipped  job" in printed
    assert slurm.run("squeue", "-h").stdout == ""


@pytest.mark.slow
def test_a_job_that_cannot_start_is_given_up(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = slurm.sbatch("-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 300")
    slurm.wait_job(busy, states=["RUNNING"])
    argv = [*CPUS, "--folder", str(tmp_path), "--wait_minutes", "0.03"]
    code, printed = run_doctor(capsys, *argv)
    assert code == 0
    assert "did not start in 0.03 minutes and was cancelled: Resources" in printed
    assert slurm.run("squeue", "-h", "-o", "%A").stdout.split() == [busy]
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
def test_gpus_that_torch_does_not_see_are_bad(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--slurm.gpus_per_node", "1", "--folder", str(tmp_path)]
    code, printed = run_doctor(capsys, *argv)
    assert code == 1
    assert f"{slurm.names[0]}: torch sees 0 of 1 GPU" in printed
    assert printed.endswith("3 skipped, 1 bad: GPUs\n")


@pytest.mark.slow
def test_one_node_without_torch_is_named_at_once(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = slurm.names[1]
    broken = tmp_path / "broken"
    broken.mkdir()
    text = (
        f"import os\nif os.environ['SLURMD_NODENAME'] == {name!r}: raise ImportError('libx.so')\n"
    )
    text += "import time\ntime.sleep(300)\n"  # the other one waits
    (broken / "torch.py").write_text(text)
    argv = [*CPUS, "--folder", str(tmp_path), f'--slurm.env={{"PYTHONPATH": "{broken}"}}']
    started_s = time.monotonic()
    code, printed = run_doctor(capsys, *argv)
    assert code == 1 and time.monotonic() - started_s < 60
    assert f"{name}: ImportError: libx.so" in printed
    assert printed.endswith("3 skipped, 1 bad: torch\n")
    assert slurm.run("squeue", "-h").stdout == ""


@pytest.mark.slow
def test_a_job_whose_python_is_not_there_tells_what_was_logged(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del slurm
    argv = [*CPUS, "--folder", str(tmp_path), "--slurm.python", "/no/python"]
    code, printed = run_doctor(capsys, *argv)
    assert code == 1
    assert "0 of 2 processes reported; FAILED" in printed
    assert "/no/python: No such file or directory" in printed


@pytest.mark.slow
def test_ctrl_c_cancels_the_job_and_removes_the_folder(slurm: Cluster, tmp_path: Path) -> None:
    busy = slurm.sbatch("-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 300")
    slurm.wait_job(busy, states=["RUNNING"])
    code = "import sys; from tests.launch.doctor.test_doctor import config_of, doctor;"
    code += "doctor.main(config_of(*sys.argv[1:]))"
    argv = [sys.executable, "-c", code, *CPUS, "--folder", str(tmp_path)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.DEVNULL) as process:
        slurm.until(lambda: len(slurm.run("squeue", "-h").stdout.splitlines()) == 2, 60, "the job")
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert slurm.run("squeue", "-h", "-o", "%A").stdout.split() == [busy]
    assert [*tmp_path.iterdir()] == []
