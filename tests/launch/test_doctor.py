"""The doctor: what it makes of SLURM's answers and of its job's, and the whole on a real Slurm."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mobilellama.commandline.parser import parse_config
from mobilellama.launch import doctor
from mobilellama.launch import doctor_site as site
from mobilellama.launch.config import SlurmConfig
from mobilellama.launch.doctor_job import DONE, STAGES, Outcome, Report, script
from mobilellama.launch.doctor_site import Row
from mobilellama.launch.slurm import JobState
from tests.launch.helpers.cluster import Cluster

ROOT = Path(__file__).parents[2]
CPUS = ["--slurm.gpus_per_node=0", "--slurm.tasks_per_node=1"]

SINFO = """\
gpu*|up|2-00:00:00|30/8/2/40|gpu:a100:8(S:0-1),nvme:1
gpu*|up|2-00:00:00|0/4/0/4|gpu:v100:2,gpu:t4:1
cpu|up|infinite|90/10/0/100|(null)
old|drain|1:00:00|0/0/2/2|gpu:4
"""
SHOW_CONFIG = """\
Configuration data as of 2026-03-01T12:00:00
AccountingStorageType   = accounting_storage/slurmdbd
AuthInfo                = (null)
ClusterName             = big
JobRequeue              = 0
KillWait                = 30 sec
MinJobAge               = 300 sec
PreemptMode             = CANCEL
PreemptType             = preempt/qos
SLURM_VERSION           = 23.11.4
SuspendExcNodes         =

Cgroup Support Configuration:
ClusterName             = not this one

Slurmctld(primary) at ctl1 is UP
"""


def config_of(*argv: str) -> doctor.Config:
    return parse_config(doctor.Config, argv, prog="mobilellama launch doctor", about="")


def run_doctor(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """Run it here; return its exit code and what it printed."""
    code = doctor.main(config_of(*argv))
    return code, capsys.readouterr().out


def report(rank: int, **values: Any) -> Report:
    """Return what a process reports where all is well."""
    well: dict[str, Any] = {
        "node": f"node{rank + 1}", "rank": rank, "python": "3.11.7", "mobilellama": "0.1.0",
        "torch": "2.11.0", "stage": DONE, "import_s": 3.0, "rendezvous_s": 0.5 + rank,
        "clock_s": 1000.0, "login_ahead_s": (-0.2, 0.1), "all_reduce_s": {"16": 0.01},
    }  # fmt: skip
    return Report(**well | values)


def rows_of(*reports: Report) -> dict[str, Row]:
    """Return the last row of each stage."""
    return {row.name: row for stage in STAGES for row in doctor.stage_rows(stage, reports)}


# ---- what SLURM says


def test_sinfo_is_read_over_kinds_of_nodes() -> None:
    partitions = site.parse_partitions(SINFO)
    assert [*partitions] == ["gpu", "cpu", "old"]
    gpu = partitions["gpu"]
    assert gpu.is_default and gpu.nodes == 44 and gpu.idle == 12
    assert gpu.nodes_by_gpus == {8: 40, 3: 4}
    assert [gpu.nodes_with(gpus) for gpus in (0, 3, 4, 9)] == [44, 44, 40, 0]
    assert str(partitions["cpu"]) == "up, no time limit, nodes: 100 with 0 GPUs, 10 idle"


@pytest.mark.parametrize(
    ("resources", "gpus"),
    [
        ("(null)", 0),
        ("gpu:8", 8),
        ("gpu", 1),
        ("gpu:a100:4(S:0,2),nvme:1", 4),
        ("gpu:a100_1g.5gb:7,gpu:a100:3(S:0-1)", 10),
        ("nvme:gpu:2", 0),
    ],
)
def test_gpus_are_counted_among_other_resources(resources: str, gpus: int) -> None:
    assert site.gpus_of(resources) == gpus


@pytest.mark.parametrize(
    ("fields", "name", "verdict", "says"),
    [
        (
            {},
            "gpu",
            "ok",
            "the default, up, time limit 2-00:00:00, nodes: 4 with 3 GPUs, 40 with 8",
        ),
        ({}, "old", "ok", "drain"),  # nobody asked for it
        ({"partition": "old"}, "old", "bad", "no job starts in it"),
        ({"partition": "cpu"}, "cpu", "bad", "0 nodes have slurm.gpus_per_node = 8"),
        ({"cpu_partition": "cpu"}, "cpu", "ok", "slurm.cpu_partition, up"),
        ({"nodes": 41}, "gpu", "bad", "40 nodes have slurm.gpus_per_node = 8, slurm.nodes = 41"),
        ({"nodes": 41, "gpus_per_node": 3}, "gpu", "ok", "the default"),
        ({"time": "3-0"}, "gpu", "warning", "Give --slurm.time 2-00:00:00 or less"),
        ({"partition": "gpus"}, "gpus", "bad", "Give one of gpu, cpu, old; did you mean 'gpu'?"),
        ({"partition": "gpu,cp"}, "cp", "bad", "slurm.partition: there is none of that name"),
    ],
)
def test_partitions_are_judged_by_what_is_asked_of_them(
    fields: dict[str, Any], name: str, verdict: str, says: str
) -> None:
    rows = site.partition_rows(site.parse_partitions(SINFO), SlurmConfig(**fields))
    row = next(row for row in rows if row.name == f"partition {name}")
    assert row.verdict == verdict and says in str(row)


def test_a_partition_must_be_given_where_there_is_no_default() -> None:
    partitions = site.parse_partitions(SINFO.replace("*", ""))
    *_, row = site.partition_rows(partitions, SlurmConfig())
    assert row.verdict == "bad" and row.remedy == "Give --slurm.partition, one of gpu, cpu, old"


def test_the_sites_rules_are_told() -> None:
    rules = site.parse_site(SHOW_CONFIG)
    assert rules["ClusterName"] == "big" and rules["SuspendExcNodes"] == ""
    rows = {row.name: row for row in site.site_rows(rules)}
    assert rows["requeue"].verdict == "warning"
    assert rows["restart"].found.startswith("120 s after a requeue")  # the default
    assert "30 sec after TERM" in rows["restart"].found
    assert rows["preemption"].verdict == "warning"
    rules |= {"JobRequeue": "1", "PreemptMode": "REQUEUE", "AuthInfo": "socket=/x,cred_expire=60"}
    rules |= {"AccountingStorageType": "(null)"}
    rows = {row.name: row for row in site.site_rows(rules)}
    assert {row.verdict for row in rows.values()} == {"ok"}
    assert rows["restart"].found.startswith("60 s after a requeue")
    assert rows["accounting"].found == "none: ended jobs are known for 300 sec (MinJobAge)"


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


# ---- what the job found


def test_well_nodes_are_ok() -> None:
    rows = rows_of(report(0), report(1))
    assert {row.verdict for row in rows.values()} == {"ok"}
    assert rows["rendezvous"].found == "2 processes met in 0.5 s"


@pytest.mark.parametrize(
    ("apart_s", "verdict"), [(0, "ok"), (2, "ok"), (2.1, "warning"), (30, "warning"), (31, "bad")]
)
def test_clocks_are_judged_by_how_far_they_are_apart(apart_s: float, verdict: str) -> None:
    assert doctor.clock_verdict(apart_s) == verdict
    nodes, login = doctor.clock_rows([report(0), report(1, clock_s=1000 + apart_s)])
    assert nodes.verdict == verdict and login.verdict == "ok"
    assert nodes.found == f"node2 is {apart_s:.2f} s ahead of node1" or not apart_s
    # Measured to within a second: only what is certain counts.
    for bounds in ((apart_s, apart_s + 1), (-apart_s - 1, -apart_s)):
        _, login = doctor.clock_rows([report(0, login_ahead_s=bounds), report(1)])
        assert login.verdict == verdict


def test_only_gpus_have_to_be_fast() -> None:
    # 2 (n - 1) / n of 256 MiB for n = 2: 268 MB. In 0.1 s: 2.68 GB/s; in 0.01 s: 26.84 GB/s.
    for gpus, seconds, verdict in [(8, 0.1, "warning"), (8, 0.01, "ok"), (0, 0.1, "ok")]:
        values = {"gpus": gpus, "all_reduce_s": {"256": seconds}}
        (row,) = doctor.bandwidth_rows([report(0, **values), report(1, **values)])
        assert row.verdict == verdict
        assert f"{0.2684 / seconds:.2f} GB/s at 256 MiB" in row.found
        assert ("NCCL_IB_HCA" in row.remedy) == (verdict == "warning")
    (row,) = doctor.bandwidth_rows([report(0, all_reduce_s={})])
    assert row.verdict == "skipped"


def test_a_node_that_sees_no_files_of_another_is_named() -> None:
    row = rows_of(report(0, unseen=["from-1"]), report(1, unseen=["login"]))["shared folder"]
    assert row.verdict == "bad"
    assert row.found == "node1 sees no file of node2; node2 sees no file of the login node"


def test_versions_must_agree_between_nodes_and_should_agree_with_these() -> None:
    row = doctor.versions_row([report(0), report(1, torch=None)])
    assert (
        row.verdict == "bad" and "node2: Python 3.11.7, mobilellama 0.1.0, torch None" in row.found
    )
    row = doctor.versions_row([report(0, python="3.99.0"), report(1, python="3.99.0")])
    assert row.verdict == "warning" and "nodes: Python 3.99.0" in row.found


def test_what_one_process_could_not_do_is_bad_and_what_follows_is_skipped() -> None:
    rows = rows_of(report(0, stage="rendezvous"), report(1, stage="torch", error="no torch"))
    assert [(name, row.verdict) for name, row in rows.items()] == [
        ("shared folder", "ok"),
        ("torch", "bad"),
        ("GPUs", "skipped"),
        ("rendezvous", "skipped"),
        ("clocks", "skipped"),
        ("all-reduce", "skipped"),
    ]
    assert rows["torch"].found == "node2: no torch"
    hung = rows_of(report(0, stage="rendezvous"), report(1, stage="rendezvous"))["rendezvous"]
    assert hung.verdict == "bad" and hung.found.startswith("node1, node2: had not ended it")


@pytest.mark.parametrize(
    ("reason", "verdict", "says"),
    [
        ("", "warning", "no reason given"),
        ("Priority", "warning", "no fault"),
        ("QOSMaxGRESPerUser", "bad", "A limit of your account or QOS"),
        ("AssocGrpGRES", "bad", "A limit of your account or QOS"),
        ("InvalidAccount", "bad", "A limit of your account or QOS"),
        ("PartitionNodeLimit", "bad", "The partition does not allow it"),
        ("ReqNodeNotAvail,_UnavailableNodes:n1", "bad", "see 'sinfo -R'"),
        ("Licenses", "bad", "JOB REASON CODES"),
    ],
)
def test_what_a_waiting_job_waits_for_is_explained(reason: str, verdict: str, says: str) -> None:
    last = JobState(id="7", state="PENDING", reason=reason, nodes="", restarts=0)
    outcome = Outcome(job="7", last=last, started_after_s=None, reports=[], log_tail="")
    row = doctor.outcome_row(outcome, 2, 10)
    assert row.verdict == verdict and says in str(row)
    assert "job 7 did not start in 10 minutes and was cancelled" in row.found


def test_the_script_has_the_sites_environment_and_options(tmp_path: Path) -> None:
    config = SlurmConfig(
        setup=["module load x"], env={"NCCL_DEBUG": "a b"}, python="/p/python", srun_extra="--x=1"
    )
    lines = script(config, tmp_path).splitlines()
    assert lines.index("module load x") < lines.index("export NCCL_DEBUG='a b'")
    assert lines[-1] == (
        "srun --label --kill-on-bad-exit=0 --wait=0 --cpu-bind=cores --x=1 "
        f"/p/python -m mobilellama.launch.doctor_job {tmp_path} 8"
    )


# ---- on a real Slurm


def assert_all_well(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = run_doctor(capsys, *CPUS, "--folder", str(folder))
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
    assert "slurm.partition: there is none of that name" in printed
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
    assert f"{slurm.names[0]}: torch sees 0 of 1 GPUs" in printed
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
    code = "import sys; from tests.launch.test_doctor import config_of, doctor;"
    code += "doctor.main(config_of(*sys.argv[1:]))"
    argv = [sys.executable, "-c", code, *CPUS, "--folder", str(tmp_path)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.DEVNULL) as process:
        slurm.until(lambda: len(slurm.run("squeue", "-h").stdout.splitlines()) == 2, 60, "the job")
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert slurm.run("squeue", "-h", "-o", "%A").stdout.split() == [busy]
    assert [*tmp_path.iterdir()] == []
