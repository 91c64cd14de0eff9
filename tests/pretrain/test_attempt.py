"""One attempt from its start to its verdict: a stop at every moment of it."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.distributed import DistBackendError, DistNetworkError

from mobilellama import signals
from mobilellama.pretrain.attempt import is_lost_connection
from mobilellama.pretrain.validate import HeldOut
from mobilellama.run_folder import RunFolder
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.tiny import tiny_argv


def attempt_on_ranks(
    dataset: Path, folder: Path, hooks: dict[str, Any], fields: dict[str, Any]
) -> list[str]:
    """Run an attempt in which something asks for a stop; return what was done."""
    from mobilellama.commandline.parser import parse_config
    from mobilellama.distributed import World
    from mobilellama.pretrain.attempt import run_attempt
    from mobilellama.pretrain.config import Config
    from mobilellama.pretrain.run import facts_of, pretraining
    from mobilellama.pretrain.training_data import open_windows

    config = parse_config(Config, tiny_argv(dataset, folder, fields)[1:], prog="test", about="")
    done: list[str] = []
    with signals.answering(signals.BEFORE_STEPS, noting=True):
        world, run = World(config.distributed), RunFolder(folder)
        data = open_windows(config)
        facts = facts_of(config, data, "fp32")
        hook = {name: partial(function, world, run, done) for name, function in hooks.items()}
        hook.get("start", lambda: None)()

        def build(checkpoint: Any) -> Any:
            done.append("assemble")
            hook.get("assemble", lambda: None)()
            job = pretraining(config, data, world, facts)
            return replace(job, heldout=hook["heldout"](job.heldout)) if "heldout" in hook else job

        run_attempt(
            config,
            world,
            facts,
            save_texts=lambda run: None,
            build=build,
            verify=hook.get("verify"),
        )
    return done


def outcome(folder: Path) -> str:
    verdict = RunFolder(folder).read_verdict()
    assert verdict is not None
    return f"{verdict.kind} at {verdict.step}"


def signal_on_1(world: Any, number: signal.Signals = signal.SIGTERM) -> None:
    if world.rank == 1:  # not on rank 0, which writes the verdict
        os.kill(os.getpid(), number)


def before_the_attempt(world: Any, run: RunFolder, done: list[str]) -> None:
    signal_on_1(world)


def while_all_verify(world: Any, run: RunFolder, done: list[str]) -> None:
    def work() -> None:
        signal_on_1(world)
        time.sleep(0.5 if world.rank == 0 else 600)

    world.run_on_all(work, otherwise="another rank found a bad file")


def while_rank_0_works(world: Any, run: RunFolder, done: list[str]) -> None:
    def work() -> None:
        run.stop.touch()
        time.sleep(600)

    world.run_on_main(work, takes_long=True)


def while_the_model_is_built(world: Any, run: RunFolder, done: list[str]) -> None:
    signal_on_1(world)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "hook", "expected"),
    [
        ("start", before_the_attempt, []),
        ("verify", while_all_verify, []),
        ("assemble", while_rank_0_works, ["assemble"]),
        ("assemble", while_the_model_is_built, ["assemble"]),
    ],
)
def test_a_stop_before_the_first_step_stops_all_ranks_with_a_verdict(
    small_dataset: Path, tmp_path: Path, moment: str, hook: Any, expected: list[str]
) -> None:
    done = run_ranks(attempt_on_ranks, 2, small_dataset, tmp_path, {moment: hook}, {})
    assert done == [expected] * 2
    assert outcome(tmp_path) == "stopped at 0"
    verdict = RunFolder(tmp_path).read_verdict()
    assert verdict is not None and verdict.message.endswith(", before its first step")
    assert not RunFolder(tmp_path).metrics.exists() or not RunFolder(tmp_path).read_metrics()


class InTheValidation:
    """What is held out; rank 1 is asked to stop when its first samples are taken."""

    def __init__(self, world: Any, run: RunFolder, done: list[str], heldout: HeldOut) -> None:
        self._world, self._done, self._heldout = world, done, heldout
        self.counts = heldout.counts

    def stack(self, name: str, samples: Sequence[int]) -> dict[str, Tensor]:
        if "stack" not in self._done:
            signal_on_1(self._world)
        self._done.append("stack")
        return self._heldout.stack(name, samples)


@pytest.mark.slow
def test_a_stop_in_the_validation_leaves_it_out_and_saves_that_step(
    small_dataset: Path, tmp_path: Path
) -> None:
    fields = {"train.max_steps": 6, "checkpoint.every_steps": 100, "validation.every_steps": 2}
    hooks = {"heldout": InTheValidation}
    done = run_ranks(attempt_on_ranks, 2, small_dataset, tmp_path, hooks, fields)
    assert done == [["assemble", "stack"]] * 2  # of three subsets one was looked at
    assert outcome(tmp_path) == "stopped at 2"
    assert RunFolder(tmp_path).checkpoint_steps() == [2]
    assert not any("validation_loss" in line for line in RunFolder(tmp_path).read_metrics())


def while_it_is_saved(world: Any, run: RunFolder, done: list[str]) -> None:
    def watch() -> None:
        while not list(run.checkpoints.iterdir()):
            time.sleep(0.0005)
        os.kill(os.getpid(), signal.SIGTERM)

    if world.rank == 1:
        threading.Thread(target=watch, daemon=True).start()


@pytest.mark.slow
def test_a_stop_in_the_saving_leaves_a_whole_checkpoint_and_no_other(
    small_dataset: Path, tmp_path: Path
) -> None:
    fields = {"train.max_steps": 100, "checkpoint.every_steps": 1, "validation.every_steps": None}
    hooks = {"assemble": while_it_is_saved}
    run_ranks(attempt_on_ranks, 2, small_dataset, tmp_path, hooks, fields)
    run = RunFolder(tmp_path)
    newest = run.checkpoint_steps()[-1]
    assert outcome(tmp_path) == f"stopped at {newest}"
    assert newest < 100
    assert [path.name for path in run.checkpoints.iterdir() if "tmp" in path.name] == []


NCCL = "NCCL error in: ProcessGroupNCCL.cpp:3690, {}, NCCL version 2.27.5\n{}\nLast error:\n"


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/pair.cc:534] Connection closed by peer [10.0.0.2]:4871"), True),
        (DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed."), True),
        (DistBackendError("store->get('0') got error: Connection reset by peer"), True),
        (
            DistBackendError(NCCL.format(
                "remote process exited or there was a network error",
                "ncclRemoteError: A call failed possibly due to a network error or a remote "
                "process exiting prematurely.",
            )),
            True,
        ),
        (DistBackendError("NCCL communicator was aborted on rank 1."), True),
        (
            DistBackendError(NCCL.format(
                "unhandled cuda error", "ncclUnhandledCudaError: Call to CUDA function failed.")),
            False,
        ),
        (
            DistBackendError(NCCL.format(
                "invalid usage", "ncclInvalidUsage: This usually reflects invalid usage.")),
            False,
        ),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)  # fmt: skip
def test_a_lost_rank_is_known_from_what_each_backend_says_of_it(
    error: RuntimeError, lost: bool
) -> None:
    """The rest are faults of this rank, and end it with their own message."""
    assert is_lost_connection(error) is lost
