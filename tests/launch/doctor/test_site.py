"""The doctor's questions that need no job: what it makes of SLURM's answers."""

from typing import Any

import pytest

from mobilellama.launch.config import SlurmConfig
from mobilellama.launch.doctor import site

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
        ({"partition": "cpu"}, "cpu", "bad", ": 0 with slurm.gpus_per_node = 8"),
        ({"cpu_partition": "cpu"}, "cpu", "ok", "slurm.cpu_partition, up"),
        ({"nodes": 41}, "gpu", "bad", ": 40 with slurm.gpus_per_node = 8, below slurm.nodes = 41"),
        ({"nodes": 41, "gpus_per_node": 3}, "gpu", "ok", "the default"),
        ({"time": "3-0"}, "gpu", "warning", "Give --slurm.time 2-00:00:00 or less"),
        ({"partition": "gpus"}, "gpus", "bad", "Give one of gpu, cpu, old; did you mean 'gpu'?"),
        ({"partition": "gpu,cp"}, "cp", "bad", "slurm.partition: no partition has this name"),
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
