"""What the doctor makes of its job's reports."""

from typing import Any

import pytest

from mobilellama.launch.doctor import findings
from mobilellama.launch.doctor.job import Outcome
from mobilellama.launch.doctor.report import DONE, STAGES, Report
from mobilellama.launch.doctor.row import Row
from mobilellama.launch.slurm import JobState


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
    return {row.name: row for stage in STAGES for row in findings.stage_rows(stage, reports)}


def test_well_nodes_are_ok() -> None:
    rows = rows_of(report(0), report(1))
    assert {row.verdict for row in rows.values()} == {"ok"}
    assert rows["rendezvous"].found == "2 processes met in 0.5 s"


@pytest.mark.parametrize(
    ("apart_s", "verdict"), [(0, "ok"), (2, "ok"), (2.1, "warning"), (30, "warning"), (31, "bad")]
)
def test_clocks_are_judged_by_how_far_they_are_apart(apart_s: float, verdict: str) -> None:
    assert findings.clock_verdict(apart_s) == verdict
    nodes, login = findings.clock_rows([report(0), report(1, clock_s=1000 + apart_s)])
    assert nodes.verdict == verdict and login.verdict == "ok"
    assert nodes.found == f"node2 is {apart_s:.2f} s ahead of node1" or not apart_s
    # Measured to within a second: only what is certain counts.
    for bounds in ((apart_s, apart_s + 1), (-apart_s - 1, -apart_s)):
        _, login = findings.clock_rows([report(0, login_ahead_s=bounds), report(1)])
        assert login.verdict == verdict


def test_only_gpus_have_to_be_fast() -> None:
    # 2 (n - 1) / n of 256 MiB for n = 2: 268 MB. In 0.1 s: 2.68 GB/s; in 0.01 s: 26.84 GB/s.
    for gpus, seconds, verdict in [(8, 0.1, "warning"), (8, 0.01, "ok"), (0, 0.1, "ok")]:
        values = {"gpus": gpus, "all_reduce_s": {"256": seconds}}
        (row,) = findings.bandwidth_rows([report(0, **values), report(1, **values)])
        assert row.verdict == verdict
        assert f"{0.2684 / seconds:.2f} GB/s at 256 MiB" in row.found
        assert ("NCCL_IB_HCA" in row.remedy) == (verdict == "warning")
    (row,) = findings.bandwidth_rows([report(0, all_reduce_s={})])
    assert row.verdict == "skipped"


def test_a_node_that_sees_no_files_of_another_is_named() -> None:
    row = rows_of(report(0, unseen=["from-1"]), report(1, unseen=["login"]))["shared folder"]
    assert row.verdict == "bad"
    assert (
        row.found
        == "node1 does not see the file of node2; node2 does not see the file of the login node"
    )


def test_versions_must_agree_between_nodes_and_should_agree_with_these() -> None:
    row = findings.versions_row([report(0), report(1, torch=None)])
    assert (
        row.verdict == "bad" and "node2: Python 3.11.7, mobilellama 0.1.0, torch None" in row.found
    )
    row = findings.versions_row([report(0, python="3.99.0"), report(1, python="3.99.0")])
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
    assert hung.verdict == "bad" and hung.found.startswith("node1, node2: had not done it")


@pytest.mark.parametrize(
    ("reason", "verdict", "says"),
    [
        ("", "warning", "no reason given"),
        ("Priority", "warning", "not a fault"),
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
    row = findings.outcome_row(outcome, 2, 10)
    assert row.verdict == verdict and says in str(row)
    assert "job 7 did not start in 10 minutes and was cancelled" in row.found
