"""Running a function on several ranks, from a forkserver that has torch and deepspeed loaded.

A process started from scratch imports for ten seconds; one forked from the server starts in
about one.
"""

import multiprocessing
import os
import pickle
import signal
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

PRELOADED = [
    "torch",
    "torch._inductor.compile_fx",
    "deepspeed",
    "deepspeed.runtime.engine",
    "deepspeed.runtime.zero.muon.original_muon",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "lightning_fabric",
    "peft",
    "pyarrow",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "mobilellama.pretrain.run",
    "mobilellama.vlm.run",
]
TIMEOUT_S = 120.0


def _context() -> Any:
    # Inherited by the server, and through it by the ranks; read when deepspeed is imported.
    os.environ.update(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def free_port() -> int:
    """Return a port on which nobody listens just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _rank_main(
    work: Callable[..., Any], args: tuple[Any, ...], place: dict[str, str], answer: Connection
) -> None:
    os.environ.update(place)
    try:
        outcome = (True, work(*args))
    except BaseException as error:
        outcome = (False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    # Plain pickle copies tensors; the connection's own would share memory that dies with us.
    answer.send_bytes(pickle.dumps(outcome))


class Ranks:
    """Ranks that have been started; ``results`` waits for them."""

    def __init__(self, work: Callable[..., Any], world_size: int, *args: Any) -> None:
        """Start `work(*args)` on every rank, with the environment that torchrun would give."""
        context = _context()
        shared = {
            "TORCHELASTIC_RUN_ID": "tests",
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
        }
        self.processes, self._answers = [], []
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            place = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = context.Process(target=_rank_main, args=(work, args, place, sender))
            process.start()
            sender.close()
            self.processes.append(process)
            self._answers.append(receiver)

    def signal(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to one rank."""
        os.kill(self.processes[rank].pid, number)

    def results(self) -> list[Any]:
        """Return what every rank returned, by rank.

        Raises:
            AssertionError: a rank raised, died or took too long.
        """
        try:
            return [self._result(rank) for rank in range(len(self.processes))]
        finally:
            for process in self.processes:
                process.kill()
                process.join()

    def _result(self, rank: int) -> Any:
        answer = self._answers[rank]
        assert answer.poll(TIMEOUT_S), f"rank {rank} gave no answer in {TIMEOUT_S} s"
        try:
            good, value = pickle.loads(answer.recv_bytes())
        except EOFError:
            raise AssertionError(f"rank {rank} died without an answer") from None
        assert good, f"rank {rank}: {value}"
        return value


def run_ranks(work: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Run `work(*args)` on `world_size` ranks and return their results, by rank."""
    return Ranks(work, world_size, *args).results()
