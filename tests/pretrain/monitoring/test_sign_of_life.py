"""What ranks that wait see of rank 0."""

import os
import time
from pathlib import Path

import pytest

from mobilellama.distributed import World
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain.monitoring.sign_of_life import SignOfLife
from mobilellama.pretrain.monitoring.watchdog import HUNG, Watchdog
from mobilellama.progress import Progress
from tests.helpers.ranks import Ranks, run_ranks
from tests.pretrain.helpers.watched import TWO_SECONDS, watched


def hang(world: World, watchdog: Watchdog, folder: Path) -> None:
    watchdog.mark("building and loading the model")
    time.sleep(600)


@pytest.mark.parametrize(
    ("name", "left"),
    [(".stacks-0003-rank-0.txt", []), ("alive-0003", ["stacks-0003-rank-0.txt"])],
)
def test_a_file_system_that_does_not_answer_holds_no_rank(
    tmp_path: Path, name: str, left: list[str]
) -> None:
    """A pipe that nobody reads holds whoever opens it, as a server does that is gone."""
    (tmp_path / "logs").mkdir()
    os.mkfifo(tmp_path / "logs" / name)
    ranks = Ranks(watched, 2, tmp_path, hang, {"start_minutes": TWO_SECONDS})
    for process in ranks.processes:
        process.join(60)
    assert [process.exitcode for process in ranks.processes] == [HUNG, HUNG]
    stacks = sorted(path.name for path in (tmp_path / "logs").glob("stacks-*"))
    assert stacks == [*left, "stacks-0003-rank-1.txt"]


def work_alone(world: World, watchdog: Watchdog, folder: Path) -> str:
    def tokenise() -> None:
        with Progress("tokenise", total=12, unit="files") as progress:
            for _ in range(12):
                time.sleep(0.4)
                progress.advance(1)

    world.run_on_main(tokenise, takes_long=True)
    return "done"


def test_ranks_that_wait_while_rank_0_works_do_not_hang(tmp_path: Path) -> None:
    fields = {"start_minutes": TWO_SECONDS}
    assert run_ranks(watched, 2, tmp_path, work_alone, fields) == ["done", "done"]
    assert [path.name for path in (tmp_path / "logs").iterdir()] == []


def test_a_rank_without_others_shows_nothing_and_ends_at_once(world: World, tmp_path: Path) -> None:
    sign = SignOfLife(tmp_path / "alive", world, every_s=0.001)
    sign.start()
    sign.show("at work")
    time.sleep(0.02)
    assert not (tmp_path / "alive").exists() and sign.seen == ""
    sign.end(wait_s=0.0)


def show_and_see(folder: Path) -> str:
    world = World(DistributedConfig(accelerator="cpu", threads=1))
    sign = SignOfLife(folder / "alive", world, every_s=0.01)
    world.waits_for_main = not world.is_main
    sign.start()
    sign.show(f"rank {world.rank} works")
    for _ in range(1_000):
        if sign.seen or (folder / "seen").exists():
            break
        time.sleep(0.01)
    if not world.is_main:
        (folder / "seen").touch()
    sign.end(wait_s=10.0)
    return sign.seen


@pytest.mark.slow
def test_a_waiting_rank_sees_what_rank_0_shows_and_the_file_goes(tmp_path: Path) -> None:
    assert run_ranks(show_and_see, 2, tmp_path) == ["", "rank 0 works"]
    assert [path.name for path in tmp_path.iterdir()] == ["seen"]
