"""The watchdog: ranks that hang leave, and say who did not arrive; ranks that work do not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mobilellama import signals
from mobilellama.distributed import World
from mobilellama.pretrain.monitoring.watchdog import HUNG, RankState, Watchdog, describe
from mobilellama.run_folder import RunFolder
from tests.helpers.ranks import Ranks
from tests.pretrain.helpers.tiny import tiny_argv
from tests.pretrain.helpers.watched import TWO_SECONDS, watched
from tests.pretrain.state.test_checkpoint import wait_for

FOREVER = {"train.max_steps": 1_000_000, "validation.every_steps": None}


def place(rank: int, marks: int, at: str = "forward and backward") -> RankState:
    return RankState(
        rank=rank, host=f"node{rank}", pid=100 + rank, phase="step", step=7, marks=marks, at=at
    )


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([place(0, 9), place(2, 9)], "Did not arrive, and cannot say where: rank 1 (stopped,"),
        ([place(0, 9)], "Did not arrive, and cannot say where: ranks 1, 2 (stopped,"),
        (
            [place(0, 9), place(1, 8, "waiting for data"), place(2, 9)],
            "Did not arrive: rank 1 on node1, process 101, which is at: waiting for data. Stacks",
        ),
        ([place(0, 9), place(1, 9), place(2, 9)], "All ranks are in the same place. Stacks"),
    ],
)
def test_those_that_did_not_arrive_are_named(places: list[RankState], said: str) -> None:
    text = describe(places[0], places, 3, minutes=10, logs=Path("RUN/logs"))
    begins = "the ranks hang: nothing has happened for 10 minutes (watchdog.step_minutes) after "
    assert text.startswith(f"{begins}step 7, at: forward and backward. ")
    assert said in text
    assert "\n" not in text


def hang_on_one(world: World, watchdog: Watchdog, folder: Path) -> None:
    watchdog.begin_steps()
    watchdog.mark("waiting for data", step=8)
    if world.rank == 1:
        time.sleep(600)
    watchdog.mark("adding up the losses")
    world.any(False)


def test_a_rank_that_hangs_is_named_and_all_leave_with_their_stacks(tmp_path: Path) -> None:
    fields = {"step_minutes": TWO_SECONDS}
    ranks = Ranks(watched, 2, tmp_path, hang_on_one, fields)
    for process in ranks.processes:
        process.join(60)
    assert [process.exitcode for process in ranks.processes] == [HUNG, HUNG]
    told = (tmp_path / "logs/hang-0003.txt").read_text()
    assert len(list((tmp_path / "logs").iterdir())) == 3
    assert "Did not arrive: rank 1 on" in told and "which is at: waiting for data" in told
    for rank, function in enumerate(["any", "hang_on_one"]):
        first, *stacks = (tmp_path / f"logs/stacks-0003-rank-{rank}.txt").read_text().splitlines()
        assert json.loads(first)["rank"] == rank
        assert any(line.endswith(f" in {function}") for line in stacks)


@pytest.mark.slow
def test_a_rank_that_cannot_write_its_stacks_still_tells(tmp_path: Path) -> None:
    (tmp_path / "logs/stacks-0003-rank-0.txt/in_the_way").mkdir(parents=True)
    script = f"""
from pathlib import Path
from tests.pretrain.monitoring.test_sign_of_life import hang
from tests.pretrain.monitoring.test_watchdog import watched
watched(Path({str(tmp_path)!r}), hang, {{"start_minutes": {TWO_SECONDS}}})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, timeout=90
    )
    assert done.returncode == HUNG
    told = [line for line in done.stderr.splitlines() if line.startswith("mobilellama: error: ")]
    assert len(told) == 2
    assert "rank 0 hangs at: building and loading the model; its stacks cannot be kept (" in told[0]
    assert "nothing has happened for" in told[1]


def stopped_for_a_while(world: World, watchdog: Watchdog, folder: Path) -> str:
    for _ in range(5):
        watchdog.mark("working")
        time.sleep(0.2)
    (folder / "ready").touch()
    time.sleep(1)  # stopped in here
    return "done"


@pytest.mark.slow
def test_a_process_that_was_stopped_and_goes_on_has_not_been_hanging(tmp_path: Path) -> None:
    ranks = Ranks(watched, 1, tmp_path, stopped_for_a_while, {"start_minutes": TWO_SECONDS})
    wait_for(lambda: (tmp_path / "ready").exists())
    ranks.signal(0, signal.SIGSTOP)
    time.sleep(5)
    ranks.signal(0, signal.SIGCONT)
    assert ranks.results() == ["done"]


def processes_of(run: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(run).encode() in words and b"pretrain" in words:
            found.append(int(entry.name))
    return found


def start(*words: str, dataset: Path, run: Path, fields: dict[str, Any]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *words, "pretrain", *tiny_argv(dataset, run, FOREVER | fields)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 0])
def test_a_stopped_rank_costs_the_run_no_more_than_the_watchdogs_time(
    small_dataset: Path, tmp_path: Path, rank: int
) -> None:
    """Without a launcher, the rank that can ends the one that cannot: none is left."""
    run = RunFolder(tmp_path)
    fields = {"distributed.devices": 2, "watchdog.step_minutes": 3 * TWO_SECONDS}
    process = start("mobilellama", dataset=small_dataset, run=tmp_path, fields=fields)
    wait_for(lambda: len(run.read_metrics()) >= 2, timeout_s=180)
    [child] = [pid for pid in processes_of(tmp_path) if pid != process.pid]
    os.kill([process.pid, child][rank], signal.SIGSTOP)
    _, err = process.communicate(timeout=90)
    assert process.returncode == (HUNG if rank else -signal.SIGKILL)
    told = [line for line in err.splitlines() if line.startswith("mobilellama: error: ")]
    assert len(told) == 1
    assert f"Did not arrive, and cannot say where: rank {rank} (stopped" in told[0]
    wait_for(lambda: processes_of(tmp_path) == [])
    assert run.read_verdict() is None  # a launcher starts it again
    assert (tmp_path / f"logs/stacks-0001-rank-{1 - rank}.txt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGKILL])
def test_ranks_save_and_stop_when_torchrun_has_died(
    small_dataset: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = RunFolder(tmp_path)
    torchrun = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "mobilellama")
    process = start(*torchrun, dataset=small_dataset, run=tmp_path, fields={})
    wait_for(lambda: len(run.read_metrics()) >= 2, timeout_s=180)
    process.send_signal(number)
    _, err = process.communicate(timeout=90)
    assert process.returncode == -number
    wait_for(lambda: processes_of(tmp_path) == [])
    verdict = run.read_verdict()
    assert verdict is not None
    # Each rank looks every second; whichever sees it first asks the others.
    reasons = ("the end of its launcher", "another rank was asked to stop")
    assert verdict.message in [f"stopped at step {verdict.step}: {reason}" for reason in reasons]
    assert run.checkpoint_steps() == [verdict.step]
    assert f"the end of its launcher: {signals.BEFORE_STEPS}" not in err
