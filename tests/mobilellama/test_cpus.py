"""How many CPUs a process may use: who decides, quotas of both kinds, what is said of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mobilellama import cpus
from mobilellama.cpus import CpuBudget, cgroup_quota, cpu_budget

NAMES = ("OMP_NUM_THREADS", "SLURM_PROCID", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
AFFINITY = "the CPUs that this process may use"
QUOTA = "the CPU quota of its control group"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 CPUs, without SLURM, quota or a launcher."""
    for name in (*NAMES, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    monkeypatch.setattr(cpus, "cgroup_quota", lambda: None)


def budget(**environment: str) -> tuple[int, str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        found = cpu_budget(processes=4)
    return found.count, found.reason


def test_the_field_decides_before_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert cpu_budget(7, field="workers") == CpuBudget(count=7, reason="workers")


def test_without_limits_a_process_has_the_cpus_that_it_may_run_on() -> None:
    assert cpu_budget() == CpuBudget(count=16, reason=AFFINITY)


def test_processes_share_the_cpus_and_each_has_one_at_least() -> None:
    assert budget() == (4, f"{AFFINITY}, shared by 4 processes")
    assert cpu_budget(processes=100).count == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OMP_NUM_THREADS": "1"}, (1, "OMP_NUM_THREADS")),
        ({"OMP_NUM_THREADS": "3,2"}, (3, "OMP_NUM_THREADS")),  # of a process; not shared again
        ({"OMP_NUM_THREADS": "many"}, (4, f"{AFFINITY}, shared by 4 processes")),
        ({"OMP_NUM_THREADS": "0"}, (4, f"{AFFINITY}, shared by 4 processes")),
        # srun's task: its own share, which is not shared out again
        ({"SLURM_PROCID": "3", "SLURM_CPUS_PER_TASK": "6"}, (6, "SLURM_CPUS_PER_TASK")),
        ({"SLURM_PROCID": "3", "SLURM_CPUS_PER_TASK": "64"}, (16, AFFINITY)),
        # torchrun under srun: the node's share is shared out
        (
            {"SLURM_PROCID": "0", "SLURM_CPUS_PER_TASK": "8", "LOCAL_WORLD_SIZE": "4",
             "SLURM_CPUS_ON_NODE": "8"},
            (2, "SLURM_CPUS_ON_NODE, shared by 4 processes"),
        ),
        ({"SLURM_CPUS_ON_NODE": "12"}, (3, "SLURM_CPUS_ON_NODE, shared by 4 processes")),
        (
            {"SLURM_PROCID": "0", "SLURM_CPUS_PER_TASK": "8", "OMP_NUM_THREADS": "5"},
            (5, "OMP_NUM_THREADS"),
        ),
    ],
)  # fmt: skip
def test_omp_num_threads_decides_before_slurm_and_slurm_limits_what_is_there(
    environment: dict[str, str], expected: tuple[int, str]
) -> None:
    assert budget(**environment) == expected


@pytest.mark.parametrize(("quota", "count"), [(8.0, 8), (2.5, 2), (0.5, 1)])
def test_a_quota_below_the_cpus_decides(
    monkeypatch: pytest.MonkeyPatch, quota: float, count: int
) -> None:
    monkeypatch.setattr(cpus, "cgroup_quota", lambda: quota)
    assert cpu_budget() == CpuBudget(count=count, reason=QUOTA)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    assert cpu_budget().reason == ("SLURM_CPUS_ON_NODE" if quota >= 1 else QUOTA)


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("own", "above", "expected"),
    [
        ("max 100000", "max 100000", None),
        ("250000 100000", "max 100000", 2.5),
        ("max 100000", "400000 100000", 4.0),  # of a group above
        ("800000 100000", "400000 100000", 4.0),
    ],
)
def test_the_second_version_says_the_quota_in_one_file_and_each_group_above_counts(
    tmp_path: Path, own: str, above: str, expected: float | None
) -> None:
    mounts, membership = tmp_path / "cgroup", tmp_path / "membership"
    write(mounts / "jobs/one", cpu__max=own)
    write(mounts / "jobs", cpu__max=above)
    membership.write_text("0::/jobs/one\n")
    assert cgroup_quota(mounts, membership) == expected


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
def test_the_first_version_says_it_in_two(tmp_path: Path, mount: str) -> None:
    mounts, membership = tmp_path / "cgroup", tmp_path / "membership"
    group = mounts / mount / "docker/abc"
    write(group, cpu__cfs_quota_us="150000", cpu__cfs_period_us="50000")
    write(mounts / mount, cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    membership.write_text("5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/init\n")
    assert cgroup_quota(mounts, membership) == 3.0
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    assert cgroup_quota(mounts, membership) is None


@pytest.mark.parametrize("line", ["0::/docker/abc", "1:cpu:/docker/abc"])
def test_a_container_sees_its_own_group_at_the_mount_although_the_path_is_the_hosts(
    tmp_path: Path, line: str
) -> None:
    mounts, membership = tmp_path / "cgroup", tmp_path / "membership"
    write(mounts, cpu__max="100000 100000")
    write(mounts / "cpu", cpu__cfs_quota_us="100000", cpu__cfs_period_us="100000")
    membership.write_text(line)
    assert cgroup_quota(mounts, membership) == 1.0


@pytest.mark.parametrize("written", [b"", b"garbage\n", b"1:cpu\n", b"0::/a\n\n", b"0::/\xff\n"])
def test_a_sandbox_that_writes_other_lines_has_no_quota(tmp_path: Path, written: bytes) -> None:
    membership = tmp_path / "membership"
    membership.write_bytes(written)
    assert cgroup_quota(tmp_path, membership) is None


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path, tmp_path / "none") is None


def test_a_start_line_names_the_count_and_who_decided() -> None:
    assert CpuBudget(count=1, reason="OMP_NUM_THREADS").describe("CPU thread") == (
        "1 CPU thread (OMP_NUM_THREADS)"
    )
    assert CpuBudget(count=4, reason="workers").describe("process") == "4 processes (workers)"


def test_torch_keeps_within_the_budget_and_is_never_raised_above_its_own_default() -> None:
    script = (
        "import os, torch\n"
        "from mobilellama.cpus import use_cpu_budget\n"
        "torch.set_num_threads(4)\n"
        "for threads in (3, 8):\n"
        "    os.environ['OMP_NUM_THREADS'] = str(threads)\n"
        "    use_cpu_budget()\n"
        "    print(torch.get_num_threads())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["3", "3"]


def under_torchrun(tmp_path: Path, *, processes: int, **environment: str) -> list[str]:
    """Return what the ranks of a real torchrun say of their CPUs, and of their workers'."""
    code = tmp_path / "rank.py"
    code.write_text(
        "import os, subprocess, sys\n"
        "os.sched_getaffinity = lambda process: set(range(16))\n"
        "from mobilellama import cpus\n"
        "cpus.cgroup_quota = lambda: None\n"
        "said = cpus.cpu_budget().describe('CPU thread')\n"
        "if len(sys.argv) < 2:\n"
        "    child = [sys.executable, __file__, 'worker']\n"
        "    same = subprocess.run(child, capture_output=True, text=True).stdout\n"
        "    said += ' | ' + same\n"
        "print(said, flush=True)\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    inherited = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [*torchrun, f"--nproc_per_node={processes}", str(code)],
        env=inherited | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.slow
def test_torchruns_own_omp_num_threads_is_told_from_the_users(tmp_path: Path) -> None:
    said = f"8 CPU threads ({AFFINITY}, shared by 2 processes; OMP_NUM_THREADS=1 is torchrun's own)"
    assert under_torchrun(tmp_path, processes=2) == [f"{said} | {said}"] * 2
    said = "1 CPU thread (OMP_NUM_THREADS)"
    lines = under_torchrun(tmp_path, processes=2, OMP_NUM_THREADS="1")
    assert lines == [f"{said} | {said}"] * 2


def proc(folder: Path, number: int, parent: int, *names: str) -> Path:
    """Write what the kernel tells of a process."""
    process = folder / str(number)
    process.mkdir()
    (process / "environ").write_text("".join(f"{name}=1\0" for name in names))
    (process / "stat").write_text(f"{number} (a ) name) S {parent} {number} 0")
    return process


@pytest.mark.parametrize(
    ("of_torchrun", "by_torchrun"),
    [
        (("PATH",), True),
        (("PATH", "OMP_NUM_THREADS"), False),
        ((), False),  # it cannot be read
    ],
)
def test_the_environment_that_torchrun_was_started_with_tells_who_set_a_variable(
    tmp_path: Path, of_torchrun: tuple[str, ...], by_torchrun: bool
) -> None:
    of_a_rank = ("OMP_NUM_THREADS", cpus.TORCHRUN_MARK)
    proc(tmp_path, 7, 1, *of_torchrun)
    proc(tmp_path, 8, 7, *of_a_rank)  # a shell around the rank
    rank = proc(tmp_path, 9, 8, *of_a_rank)
    assert cpus.is_set_by_torchrun("OMP_NUM_THREADS", rank) is by_torchrun


def test_without_torchrun_omp_num_threads_is_the_users(tmp_path: Path) -> None:
    proc(tmp_path, 7, 1, "PATH")
    process = proc(tmp_path, 9, 7, "PATH", "OMP_NUM_THREADS")
    assert not cpus.is_set_by_torchrun("OMP_NUM_THREADS", process)
    assert not cpus.is_set_by_torchrun("OMP_NUM_THREADS", tmp_path / "gone")
