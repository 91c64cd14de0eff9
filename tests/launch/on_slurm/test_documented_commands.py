"""The pages' commands that need a SLURM, word for word, in a folder of their own."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.conftest import require_slurm
from tests.launch.helpers.cluster import Cluster
from tests.launch.helpers.jobs import wait_for
from tests.test_documented_commands import PAGES, commands_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PARTITIONS = "PartitionName=gpu Nodes=ALL\nPartitionName=cpu Nodes=ALL"


def start(command: str, folder: Path) -> subprocess.Popen[str]:
    """Start a command of ours in a folder."""
    words = [sys.executable, "-m", *shlex.split(command)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        words, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def said_by(command: str, folder: Path, code: int = 0) -> str:
    """Run a command to its end and return what it printed."""
    process = start(command, folder)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == code, f"{command}: {said}"
    return said


def commands(verb: str, page: str) -> list[str]:
    """Return a page's commands of a verb, without those that only print."""
    found = [line for line in commands_of(page) if line.startswith(f"mobilellama launch {verb}")]
    assert found, f"{page} has no 'launch {verb}' any more"
    return [line for line in found if "--dry-run" not in line and "--local" not in line]


def test_the_pages_lead_from_a_new_folder_to_a_job_and_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its nodes are taken, so that nothing as large as in the pages begins."""
    require_slurm()
    assert {"README.md", "slurm.md"} <= {*PAGES}
    with Cluster(nodes=20, gpus=8, extra_conf=PARTITIONS) as cluster:
        monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
        # The GPUs are only pretended: all but them is well, in a folder that is not there yet.
        for page in ("README.md", "slurm.md"):
            for command in commands("doctor", page):
                said = said_by(command, tmp_path, code=1)
                assert said.endswith("1 bad: GPUs\n"), said
                assert f"{tmp_path}/runs is not there yet" in said
        busy = cluster.sbatch("-N20", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 600")
        cluster.wait_job(busy, states=["RUNNING"])
        (command,) = commands("pretrain", "slurm.md")
        said = said_by(f"{command} --no-check", tmp_path)  # the data is not there
        assert "See 'mobilellama launch status runs/1_4b'" in said
        (every, one) = commands("status", "slurm.md")
        assert "1_4b" in said_by(every, tmp_path)
        assert "pretrain, pending" in said_by(one, tmp_path)
        (command,) = commands("logs", "slurm.md")
        follower = start(command, tmp_path)
        try:
            (command,) = commands("cancel", "README.md")
            assert "cancelled" in said_by(command, tmp_path)
            wait_for(lambda: follower.poll() is not None, "the end of logs --follow")
            assert "it is over" in str(follower.communicate()[0])
        finally:
            if follower.poll() is None:
                follower.send_signal(signal.SIGINT)
                follower.communicate()
        assert "cancelled" in said_by(one, tmp_path)
