"""The test cluster itself is what the launcher's tests believe it to be."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch.helpers import processes
from tests.launch.helpers.cluster import Cluster
from tests.launch.helpers.nodes import reason_unavailable
from tests.launch.helpers.slurm_conf import Mode, Options

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow

# A job whose second process has left its session, and so the reach of a plain kill.
ORPHANS = "setsid sleep 3333 & sleep 3333"


def _has_cgroups(cluster: Cluster) -> bool:
    return processes.in_freezer(f"ls -d $root/{cluster.layout.cgroup}-*")


def _tasks(conf: Path) -> list[int]:
    return [pid for pid in processes.slurm_pids(conf) if processes.is_alive(pid)]


def _wait_gone(pids: list[int]) -> None:
    end = time.monotonic() + 30
    while alive := [pid for pid in pids if processes.is_alive(pid)]:
        assert time.monotonic() < end, f"still there: {alive}"
        time.sleep(0.05)


def test_ranks_on_two_nodes_know_their_places(slurm: Cluster) -> None:
    says = "$SLURM_PROCID $SLURM_LOCALID $SLURM_NODEID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"
    step = ["srun", "-N2", "--ntasks-per-node=4", "--gpus-per-node=8"]
    lines = slurm.run(*step, "sh", "-c", f'echo "{says} $(hostname)"').stdout.splitlines()
    rows = sorted((line.split() for line in lines), key=lambda row: int(row[0]))
    assert [row[:3] for row in rows] == [
        ["0", "0", "0"],
        ["1", "1", "0"],
        ["2", "2", "0"],
        ["3", "3", "0"],
        ["4", "0", "1"],
        ["5", "1", "1"],
        ["6", "2", "1"],
        ["7", "3", "1"],
    ]
    assert [row[3] for row in rows] == [slurm.names[0]] * 4 + [slurm.names[1]] * 4
    assert {row[4] for row in rows} == {"0,1,2,3,4,5,6,7"}
    if slurm.mode != "flat":
        assert all(row[5] == row[3] for row in rows)


def test_each_of_two_jobs_on_a_node_gets_its_own_gpus(slurm: Cluster, tmp_path: Path) -> None:
    options = ["-w", slurm.names[0], "--gpus-per-node=4", "-o", tmp_path / "%j"]
    script = "echo $CUDA_VISIBLE_DEVICES; sleep 2"
    job_ids = [slurm.sbatch(*options, "--wrap", script) for _ in range(2)]
    jobs = [slurm.wait_job(job_id) for job_id in job_ids]
    assert [job["JobState"] for job in jobs] == ["COMPLETED", "COMPLETED"]
    devices = [(tmp_path / job_id).read_text().strip() for job_id in job_ids]
    assert sorted(devices) == ["0,1,2,3", "4,5,6,7"]


def test_our_own_processes_reach_the_cluster(slurm: Cluster) -> None:
    names = subprocess.run(["sinfo", "-h", "-N", "-p", "main", "-o", "%N"], capture_output=True)
    assert names.stdout.decode().split() == slurm.names


def test_a_restored_cluster_has_no_jobs_and_only_idle_nodes(slurm: Cluster) -> None:
    first, second, third = slurm.names
    running = slurm.sbatch("-w", first, "--requeue", "-o", "/dev/null", "--wrap", ORPHANS)
    waiting = slurm.sbatch(
        "-w", second, "-d", f"afterok:{running}", "-o", "/dev/null", "--wrap", "true"
    )
    slurm.wait_job(running, states=["RUNNING"])
    slurm.kill_slurmd(first)
    slurm.run("scontrol", "update", f"nodename={second}", "state=drain", "reason=test")
    slurm.kill_slurmd(third, signal.SIGSTOP)
    slurm.restore()
    assert slurm.node_states() == dict.fromkeys(slurm.names, "idle")
    assert slurm.run("squeue", "-h").stdout == ""
    assert {slurm.job(job_id)["JobState"] for job_id in (running, waiting)} == {"CANCELLED"}
    assert slurm.run("srun", "-N3", "echo", "well").stdout == "well\n" * 3


@pytest.mark.parametrize("mode", ["ns", "net", "flat"])
def test_nothing_is_left_of_a_stopped_cluster(mode: Mode) -> None:
    if reason := reason_unavailable(mode):
        pytest.skip(reason)
    with Cluster(nodes=2, mode=mode) as cluster:
        job_id = cluster.sbatch("-N2", "-o", "/dev/null", "--wrap", ORPHANS)
        cluster.wait_job(job_id, states=["RUNNING"])
        cluster.until(lambda: len(_tasks(cluster.layout.conf)) >= 4, 30, "the job's tasks")
        pids = [pid for name in cluster.names for pid in cluster.node_pids(name)]
        assert len(pids) >= 4
        assert _has_cgroups(cluster) == (cluster.layout.proctrack == "cgroup")
    _wait_gone(pids)
    assert _tasks(cluster.layout.conf) == []
    assert not cluster.folder.exists()
    assert not _has_cgroups(cluster)


@pytest.mark.parametrize("mode", ["ns", "flat"])
def test_nothing_is_left_of_a_killed_tester_after_a_sweep(mode: Mode) -> None:
    if reason := reason_unavailable(mode):
        pytest.skip(reason)
    code = f"""
from tests.launch.helpers.cluster import Cluster
cluster = Cluster(nodes=1, mode={mode!r}).start()
cluster.wait_job(cluster.sbatch("-o", "/dev/null", "--wrap", {ORPHANS!r}), states=["RUNNING"])
print(cluster.layout.conf, flush=True)
input()
"""
    argv = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as tester:
        assert tester.stdout
        conf = Path(tester.stdout.readline().strip())
        tasks = _tasks(conf)
        assert tasks
        tester.kill()
    processes.sweep()
    _wait_gone(tasks)
    assert not conf.parent.exists()


def test_options_refuse_what_slurm_would_silently_change() -> None:
    with pytest.raises(processes.ClusterError, match="silently takes its default of 120 s"):
        Options(cred_expire=4)
