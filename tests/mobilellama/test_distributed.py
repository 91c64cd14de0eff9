"""One process as a world of its own: its threads, its collectives, and how errors end its work."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from mobilellama import signals
from mobilellama.config import ConfigError, UserError
from mobilellama.distributed import OtherRankError, Ranks, World, close, uses_cuda
from mobilellama.distributed_config import DistributedConfig
from mobilellama.signals import StoppedError
from tests.helpers.ranks import run_ranks


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back what a world sets: the place of its process, and torch's threads."""
    threads = torch.get_num_threads()
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS", "DS_ACCELERATOR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    close()
    torch.set_num_threads(threads)


def world(threads: int | None = None) -> World:
    return World(DistributedConfig(accelerator="cpu", threads=threads))


def test_omp_num_threads_is_what_torch_uses_and_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made = world()
    assert torch.get_num_threads() == 1
    assert made.threads.describe("CPU thread") == "1 CPU thread (OMP_NUM_THREADS)"
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_the_field_decides_before_omp_num_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert world(threads=1).threads.reason == "distributed.threads"
    assert torch.get_num_threads() == 1
    assert os.environ["OMP_NUM_THREADS"] == "7"  # put back after the start


def test_one_process_uses_all_its_cpus_and_leaves_no_variable_behind() -> None:
    assert world().threads.count == torch.get_num_threads()
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_world_of_one_sums_and_broadcasts_what_it_has() -> None:
    made = world()
    assert (made.rank, made.size, made.is_main, made.device.type) == (0, 1, True, "cpu")
    assert made.sum([1.5, 2**53 - 1.0]) == [1.5, 2**53 - 1.0]  # fp64: counts stay exact
    assert (made.any(True), made.any(False), made.broadcast(7)) == (True, False, 7)
    assert made.any_and_here(True) == (True, True)
    assert made.any_and_here(False) == (False, False)


@pytest.mark.parametrize("takes_long", [False, True])
@pytest.mark.parametrize("error", [UserError("mend it"), RuntimeError("ours"), OSError("disk")])
def test_an_error_of_the_main_process_is_raised_there_as_it_is(
    error: Exception, takes_long: bool
) -> None:
    def work() -> None:
        raise error

    made = world()
    with pytest.raises(type(error)) as caught:
        made.run_on_main(work, takes_long=takes_long)
    assert caught.value is error
    with pytest.raises(type(error)):
        made.run_on_all(work, otherwise="another rank failed")
    assert not made.waits_for_main


def test_a_stop_that_was_asked_for_breaks_long_work_off() -> None:
    made, begun = world(), []
    with signals.answering("saved", noting=True, is_main=False) as answer:
        answer.ask("SIGTERM")
        with pytest.raises(StoppedError):
            made.run_on_main(lambda: begun.append(1), takes_long=True)
        with pytest.raises(StoppedError):
            made.run_on_all(lambda: begun.append(1), otherwise="another rank failed")
        made.run_on_main(lambda: begun.append(2))  # short work is done
    assert begun == [2]


def test_a_text_that_took_long_comes_whole_although_a_stop_was_asked_for() -> None:
    made, text = world(), "naïve \N{SNOWMAN} " * 1000
    with signals.answering("saved", noting=True, is_main=False) as answer:
        answer.ask("SIGTERM")
        assert made.from_main(lambda: text) == text
        assert made.from_main(lambda: "") == ""
        begun: list[int] = []
        made.run_on_each_node(lambda: begun.append(1), otherwise="another node failed")
    assert begun == [1] and not made.waits_for_main


def test_an_error_of_a_nodes_first_rank_is_raised_there_as_it_is() -> None:
    error = UserError("mend it")

    def work() -> None:
        raise error

    with pytest.raises(UserError) as caught:
        world().run_on_each_node(work, otherwise="another node failed")
    assert caught.value is error


def test_ranks_join_late_if_no_launcher_started_them_and_a_mistake_starts_none() -> None:
    ranks = Ranks(DistributedConfig(accelerator="cpu", devices=2))
    assert ranks.from_main(lambda: "found") == "found"
    with pytest.raises(UserError, match="mend it"):
        ranks.run_on_each_node(fail, otherwise="another node failed")
    assert not torch.distributed.is_initialized()
    alone = Ranks(DistributedConfig(accelerator="cpu"))
    done: list[str] = []
    assert alone.from_main(lambda: done.append("asked") or "found") == "found"
    alone.run_on_each_node(lambda: done.append("downloaded"), otherwise="another node failed")
    assert not torch.distributed.is_initialized()
    joined = alone.join()
    assert joined is alone.join() and done == ["asked", "downloaded"]  # told, not done again
    assert alone.from_main(lambda: "later") == "later"


def fail() -> None:
    raise UserError("mend it")


def test_what_another_rank_met_is_no_verdict() -> None:
    assert OtherRankError.final is False and issubclass(OtherRankError, UserError)


def errors_of_two_ranks() -> list[tuple[str, bool]]:
    """Let rank 0 fail, then rank 1; return what this rank meets, and whether it is told here."""
    made, met = World(DistributedConfig(accelerator="cpu")), list[tuple[str, bool]]()

    def work() -> None:
        raise OSError("disk")

    def work_of_1() -> None:
        if made.rank == 1:
            raise UserError("bad file")

    for call in (
        lambda: made.run_on_main(work),
        lambda: made.run_on_main(work, takes_long=True),
        lambda: made.run_on_all(work_of_1, otherwise="another rank found a bad file"),
    ):
        try:
            call()
        except (UserError, OSError) as error:
            met.append((str(error), getattr(error, "told_here", False)))
    return met


@pytest.mark.slow
def test_the_ranks_beside_the_one_that_failed_know_that_it_tells_the_error() -> None:
    consequence = ("another rank failed; see the message of rank 0", True)
    assert run_ranks(errors_of_two_ranks, 2) == [
        [("disk", False)] * 2 + [("another rank found a bad file", True)],
        [consequence] * 2 + [("bad file", False)],
    ]


def test_a_gpu_that_is_asked_for_and_cannot_be_used_is_an_error_with_its_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A driver too old was one: the run trained on the CPU, and said so in one line of its log."""
    causes = {
        AssertionError("Torch not compiled with CUDA enabled"): "Torch not compiled with CUDA",
        RuntimeError(
            "The NVIDIA driver on your system is too old (found version 11040). Please update it"
        ): "driver on your system is too old (found version 11040)",
    }
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for error, cause in causes.items():

        def init(error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(torch.cuda, "init", init)
        with pytest.raises(ConfigError) as caught:
            uses_cuda(DistributedConfig(accelerator="cuda"))
        assert cause in str(caught.value)
        assert "--distributed.accelerator cpu" in str(caught.value)
        assert "Please" not in str(caught.value)


_READ = """
import torch
from mobilellama.distributed import let_segments_grow
let_segments_grow()
print(torch._C._accelerator_getAllocatorSettings())
"""


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:99"}, "max_split_size_mb:99"),
    ],
)
def test_memory_on_gpus_grows_in_place_unless_a_user_says_otherwise(
    given: dict[str, str], read: str
) -> None:
    """What is read back is what torch has taken, after it was imported."""
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    environment = {k: v for k, v in os.environ.items() if k not in names} | given
    done = subprocess.run(
        [sys.executable, "-c", _READ], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == read
