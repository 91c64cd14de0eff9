"""The check of a node: what makes it bad, what it cleans up, and what it writes in any case."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mobilellama import launcher
from mobilellama.launch import health
from mobilellama.launch.health import (
    LOCAL,
    BadNodeError,
    NodeReport,
    Place,
    check_gpus,
    end_leftovers,
    gpu_memory_used,
    remove_scratch,
    wait_for_nodes,
)


def bad(call: Callable[[], object]) -> str:
    with pytest.raises(BadNodeError) as caught:
        call()
    return str(caught.value)


# ---- GPUs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "wanted", "message"),
    [
        ({}, 8, "GPUs: 0 of 8 answer"),
        ({"0": 0, "1": 0, "3": 0}, 4, "GPUs: 3 of 4 answer"),
        ({"0": 1024, "1": 1025}, 2, "GPUs: others hold 1025 MiB on GPU 1"),
        ({"0": 9000, "7": 80}, 2, "GPUs: others hold 9000 MiB on GPU 0"),
        ({"0": 2000, "7": 3000}, 2, "GPUs: others hold 2000 MiB on GPU 0, 3000 MiB on GPU 7"),
    ],
)
def test_gpus_that_are_missing_or_taken_make_a_node_bad(
    used: dict[str, int], wanted: int, message: str
) -> None:
    assert bad(lambda: check_gpus(list(used.items()), wanted, 1024)) == message


@pytest.mark.parametrize(
    ("used", "wanted"),
    [({"0": 1024, "1": 0}, 2), ({"0": 0, "1": 0, "2": 0}, 2), ({}, 0)],
)
def test_gpus_that_are_there_and_free_are_well(used: dict[str, int], wanted: int) -> None:
    check_gpus(list(used.items()), wanted, 1024)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put shell lines in the place of the driver's program; without a call there is none."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(lines: str) -> None:
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{lines}\n")
        (folder / "nvidia-smi").chmod(0o755)

    return make


@pytest.mark.parametrize(
    ("visible", "used"),
    [
        (None, [("0", 4), ("1", 81000), ("2", 0)]),
        ("0,2", [("0", 4), ("2", 0)]),
        ("1", [("1", 81000)]),
        ("GPU-8a,GPU-9c", [("0", 4), ("2", 0)]),
        ("GPU-9", [("1", 81000), ("2", 0)]),
        ("MIG-4711", [("0", 4), ("1", 81000), ("2", 0)]),
        ("", []),
    ],
)
def test_the_memory_of_the_gpus_that_the_job_sees_is_read(
    nvidia_smi: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    used: list[tuple[str, int]],
) -> None:
    nvidia_smi('printf "0, GPU-8a, 4\\n1, GPU-9b, 81000\\n2, GPU-9c, 0\\n\\n"')
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_memory_used() == used


def test_a_driver_that_is_missing_or_complains_makes_a_node_bad(
    nvidia_smi: Callable[[str], None],
) -> None:
    assert bad(gpu_memory_used) == "GPUs: nvidia-smi is not found"
    nvidia_smi('echo "NVIDIA-SMI has  failed"; echo "because" >&2; exit 9')
    assert bad(gpu_memory_used) == "GPUs: nvidia-smi says: NVIDIA-SMI has failed because"


# ---- scratch ------------------------------------------------------------------------------------


def test_scratch_folders_of_former_starts_of_the_job_alone_are_removed(tmp_path: Path) -> None:
    names = ["7.0", "7.1", "7.2", "77.0", "8.0", "6_7.0", "7"]
    folders = {name: tmp_path / f"mobilellama-{name}" for name in names}
    for folder in folders.values():
        (folder / "triton").mkdir(parents=True)
    remove_scratch(folders["7.2"])
    left = [name for name, folder in folders.items() if folder.exists()]
    assert left == ["7.2", "77.0", "8.0", "6_7.0", "7"]


def test_a_scratch_folder_with_another_name_is_left_alone(tmp_path: Path) -> None:
    for name in ("scratch", ".hidden", "other.0"):
        (tmp_path / name).mkdir()
    remove_scratch(tmp_path / "scratch")
    assert len(list(tmp_path.iterdir())) == 3


# ---- the whole check ----------------------------------------------------------------------------

PLACE = {
    "SLURM_NNODES": "2",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURMD_NODENAME": "n2",
}


def test_a_processs_place_is_what_srun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLACE.items():
        monkeypatch.setenv(name, value)
    assert Place.of_slurm() == Place(
        node="n2", rank=2, world_size=4, local_rank=0, local_size=2, nodes=2
    )


@pytest.fixture
def checked(tmp_path: Path) -> Callable[..., tuple[int, str, dict[str, str]]]:
    """Run the check as srun does; return its exit code, what it printed and what it wrote."""
    output, scratch = tmp_path / "health", tmp_path / "scratch/mobilellama-7.1"
    output.mkdir()
    scratch.mkdir(parents=True)

    def run(
        *options: str, environment: dict[str, str] | None = None, gpus: int = 0
    ) -> tuple[int, str, dict[str, str]]:
        values = {
            "output": output,
            "gpus": gpus,
            "max_gpu_used_mib": 1024,
            "scratch": scratch,
            "min_scratch_gib": 0,
            "collective": "false",
            "timeout_s": 60,
        }
        given = [f"--{name}={value}" for name, value in values.items()]
        done = subprocess.run(
            [sys.executable, "-m", "mobilellama.launch.health", *given, *options],
            env=os.environ | PLACE | (environment or {}),
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout, {p.name: p.read_text() for p in output.iterdir()}

    return run


Checked = Callable[..., tuple[int, str, dict[str, str]]]


def test_a_well_node_says_what_was_found(checked: Checked, tmp_path: Path) -> None:
    former = tmp_path / "scratch/mobilellama-7.0"
    former.mkdir()
    code, printed, written = checked()
    assert (code, list(written)) == (0, ["n2"])
    assert written["n2"].startswith("OK scratch ") and written["n2"].endswith(" GiB\n")
    assert printed == f"n2 rank 2: {written['n2']}"
    assert not former.exists()


def test_the_other_processes_of_a_node_write_nothing(checked: Checked) -> None:
    code, printed, written = checked(environment={"SLURM_PROCID": "3", "SLURM_LOCALID": "1"})
    assert (code, written) == (0, {})
    assert printed == "n2 rank 3: OK nothing to check\n"


def test_a_node_without_room_is_bad(checked: Checked, tmp_path: Path) -> None:
    code, _, written = checked("--min_scratch_gib=1e9")
    free_gib = shutil.disk_usage(tmp_path).free / 2**30
    assert code == 1
    assert written["n2"].startswith("BAD scratch: ")
    assert written["n2"].endswith(
        f" GiB free in {tmp_path}/scratch/mobilellama-7.1, below slurm.min_scratch_gib = "
        "1000000000.0\n"
    )
    assert float(written["n2"].split()[2]) == pytest.approx(free_gib, rel=0.1)


def test_whatever_goes_wrong_is_written_with_the_stage_in_which_it_did(
    checked: Checked, nvidia_smi: Callable[[str], None], tmp_path: Path
) -> None:
    assert checked("--scratch=/none/a.0")[2] == {
        "n2": "BAD asking for free room in the scratch folder: FileNotFoundError: "
        "[Errno 2] No such file or directory: '/none/a.0'\n"
    }
    nvidia_smi('echo "0, [N/A]"')
    code, _, written = checked(gpus=8)
    assert (code, written["n2"][:27]) == (1, "BAD nvidia-smi: ValueError:")


def test_a_node_that_does_not_come_to_an_end_is_bad(
    checked: Checked, nvidia_smi: Callable[[str], None]
) -> None:
    nvidia_smi("exec /bin/sleep 5")
    assert checked("--timeout_s=1", gpus=8)[::2] == (
        1,
        {"n2": "BAD nvidia-smi did not end in 1 s\n"},
    )


# ---- the report ---------------------------------------------------------------------------------


def test_a_report_is_whole_and_written_by_the_first_process_of_a_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(node="n1", rank=8, world_size=16, local_rank=0, local_size=8, nodes=2)
    report = NodeReport(tmp_path, place)
    (tmp_path / LOCAL).mkdir()
    report.write("0.25", below=LOCAL)
    report.write("BAD first")
    report.write("OK second")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    written = {str(path.relative_to(tmp_path)): path.read_text() for path in files}
    assert written == {"n1": "OK second\n", "local/n1": "0.25\n"}
    assert capsys.readouterr().out == ""
    other = Place(node="n1", rank=9, world_size=16, local_rank=1, local_size=8, nodes=2)
    NodeReport(tmp_path, other).write("BAD third")
    assert (tmp_path / "n1").read_text() == "OK second\n"
    assert capsys.readouterr().out == "n1 rank 9: BAD third\n"


def test_threads_that_write_a_report_at_the_same_time_do_not_take_each_others_file(
    tmp_path: Path,
) -> None:
    place = Place(node="n1", rank=0, world_size=1, local_rank=0, local_size=1, nodes=1)
    report = NodeReport(tmp_path, place)
    texts = [f"OK {i}" for i in range(400)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(report.write, texts))  # raises what a thread raised
    assert [path.name for path in tmp_path.iterdir()] == ["n1"]
    assert (tmp_path / "n1").read_text().rstrip() in texts


@pytest.mark.parametrize(
    ("files", "nodes", "times"),
    [
        ({"local/n1": "0.5", "local/n2": "0.25"}, 2, [0.25, 0.5]),
        ({"local/n.local": "0.5", "n.local": "OK"}, 1, [0.5]),
        ({"local/n1": "0.5", "n2": "BAD GPUs"}, 3, [0.5]),
        ({"local/n1": "0.5", "n2": "BAD GPUs", "local/.n3": "half", ".n4": "BAD"}, 4, [0.5]),
    ],
)
def test_nodes_wait_for_all_or_for_a_bad_one(
    tmp_path: Path, files: dict[str, str], nodes: int, times: list[float]
) -> None:
    (tmp_path / LOCAL).mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    began_s = time.monotonic()
    assert sorted(wait_for_nodes(tmp_path, nodes, deadline_s=began_s + 60)) == times
    assert time.monotonic() - began_s < 1


def test_a_well_node_and_the_logs_are_not_taken_for_a_bad_one(tmp_path: Path) -> None:
    """So the wait ends with the time: 15 s are kept for saying so."""
    (tmp_path / LOCAL).mkdir()
    (tmp_path / "n1").write_text("OK scratch\n")
    (tmp_path / "local/n1").write_text("0.5\n")
    (tmp_path / "rank-0.log").write_text("BAD\n")
    began_s = time.monotonic()
    assert wait_for_nodes(tmp_path, 2, deadline_s=began_s + 15.15) == [0.5]
    assert 0.15 < time.monotonic() - began_s < 2


# ---- what former starts left --------------------------------------------------------------------


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start processes that would live on, with variables of a launch."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**variables: str) -> subprocess.Popen[bytes]:
        environment = {"PATH": "/usr/bin:/bin"} | variables
        started.append(subprocess.Popen(["sleep", "60"], env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_what_another_start_of_the_same_launch_left_is_ended_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    process: Callable[..., subprocess.Popen[bytes]],
) -> None:
    launch, logs = f"{tmp_path}/a/launch", f"{tmp_path}/a/logs"
    monkeypatch.setenv(launcher.LAUNCH, launch)
    monkeypatch.setenv(launcher.STOP_FILE, f"{logs}/7.1/stop")

    def of(launch: str, start: str) -> dict[str, str]:
        return {launcher.LAUNCH: launch, launcher.STOP_FILE: f"{logs}/{start}/stop"}

    former = [process(**of(launch, "7.0")), process(**of(launch, "6.3"))]
    others = [
        process(**of(launch, "7.1")),
        process(**of(f"{launch}2", "7.0")),
        process(**of(f"{tmp_path}/b/launch", "7.0")),
        process(OTHER=launch),
        process(),
    ]
    assert end_leftovers() == 2
    assert [process.wait(timeout=5) for process in former] == [-9, -9]
    assert [process.poll() for process in others] == [None] * len(others)
    assert end_leftovers() == 0


def test_outside_of_a_launch_nothing_is_ended(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    process: Callable[..., subprocess.Popen[bytes]],
) -> None:
    monkeypatch.delenv(launcher.LAUNCH, raising=False)
    left = process(**{launcher.LAUNCH: "", launcher.STOP_FILE: f"{tmp_path}/stop"})
    assert end_leftovers() == 0
    assert left.poll() is None


@pytest.mark.parametrize(
    ("seconds", "mib", "world_size", "gb_per_s"),
    [
        (1.0, 1024, 2, 2 * 1 / 2 * 1024 * 2**20 / 1e9),
        (0.5, 256, 8, 2 * 7 / 8 * 256 * 2**20 / 1e9 / 0.5),
        (1.0, 1024, 1, 0.0),  # nothing is moved
    ],
)
def test_bus_bandwidth_counts_what_each_process_moves(
    seconds: float, mib: int, world_size: int, gb_per_s: float
) -> None:
    found = health.bus_gb_per_s(seconds, mib=mib, world_size=world_size)
    assert found == pytest.approx(gb_per_s)
