"""``launch cancel``: what is not in the queue, what is, and what runs on this machine."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mobilellama.config import ConfigError, UserError
from mobilellama.launch.folder import LaunchFolder
from mobilellama.launch.launched.cancel import Config, main
from mobilellama.launch.main import main as launch_main
from tests.launch.helpers.cluster import Cluster
from tests.launch.helpers.launches import LOCAL, RUN, TASKS, launched

ROOT = Path(__file__).parents[3]
HOLD = """\
import sys
from pathlib import Path
from mobilellama.launch.folder import LaunchFolder
with LaunchFolder(Path(sys.argv[1]), train=sys.argv[2] == "run").submitting():
    print("held", flush=True)
    sys.stdin.read()
"""


def held(folder: LaunchFolder) -> subprocess.Popen[str]:
    """Hold a launch's lock as a step of --local does, until its input ends."""
    kind = "run" if folder.run else "task"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.made), kind],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_saving_is_for_runs(tmp_path: Path) -> None:
    folder = launched(tmp_path, TASKS)
    with pytest.raises(
        ConfigError, match="save = true: needs a run, but this step writes no checkpoint"
    ):
        main(Config(run=str(folder.made), save=True))
    assert not folder.cancelled.exists()


def test_what_does_not_run_on_this_machine_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = launched(tmp_path, LOCAL)
    assert main(Config(run=str(folder.made))) == 0
    assert capsys.readouterr().out == f"{folder.made}: nothing of it runs\n"
    assert folder.run and not folder.run.stop.exists()


def test_a_run_on_this_machine_is_asked_to_save(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = launched(tmp_path, LOCAL)
    with held(folder) as process:
        assert main(Config(run=str(folder.made))) == 0
        process.communicate()
    assert folder.run and folder.run.stop.exists()
    assert capsys.readouterr().out.endswith(": saves at the end of its step, and ends\n")


def test_another_step_on_this_machine_is_ended_in_its_terminal(tmp_path: Path) -> None:
    folder = LaunchFolder(tmp_path / "model", train=False)
    folder.create()
    with held(folder) as process:
        folder.write(LOCAL)
        with pytest.raises(UserError, match=r"runs on a machine, by --local\. Press Ctrl-C there"):
            main(Config(run=str(folder.made)))
        process.communicate()


def test_nothing_requeues_it_where_slurm_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = launched(tmp_path, RUN)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"Nothing requeues it now; end it with 'scancel 7' later"):
        main(Config(run=str(folder.made)))
    assert folder.cancelled.exists()  # the job script looks at it before it requeues


@pytest.mark.slow
def test_a_waiting_job_is_cancelled_and_then_there_is_nothing_to_cancel(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = slurm.sbatch("-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 300")
    slurm.wait_job(busy, states=["RUNNING"])
    run = tmp_path / "run"
    assert launch_main(["pretrain", "--no-check", f"--run.folder={run}"]) == 0
    assert main(Config(run=str(run), save=True)) == 0  # nothing runs that could save
    assert re.search(r"job \d+: cancelled\n", capsys.readouterr().out)
    assert slurm.run("squeue", "-h", "-o", "%A").stdout.split() == [busy]
    assert main(Config(run=str(run))) == 0
    assert capsys.readouterr().out == f"{run}: no job of it is in the queue\n"
