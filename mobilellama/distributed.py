"""Start a run's processes with Lightning Fabric, and wrap the few collectives that are needed.

Fabric reads the environment of torchrun or SLURM. Without either, it starts
``distributed.devices`` processes itself.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mobilellama.config import ConfigError, UserError, one_line
from mobilellama.cpus import CpuBudget, cpu_budget
from mobilellama.distributed_config import DistributedConfig
from mobilellama.log import has_launcher
from mobilellama.signals import StoppedError, breaking_off


def uses_cuda(config: DistributedConfig) -> bool:
    """Return whether the processes run on GPUs, one each.

    Raises:
        ConfigError: this machine has not the GPUs that the config asks for.
    """
    if config.accelerator == "cpu":
        return False
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.accelerator == "cuda" and not gpus:
        rule = f"PyTorch finds no GPU that it can use: {_why_no_gpu()}"
        remedy = (
            "Mend that, see 'nvidia-smi' and 'mobilellama launch doctor'; or train on the CPU with "
            "--distributed.accelerator cpu"
        )
        raise ConfigError("distributed.accelerator", "cuda", rule, remedy)
    if gpus and config.processes_per_node > gpus:
        rule = f"exceeds the {gpus} GPUs of this node"
        remedy = "Lower it, or set distributed.accelerator to cpu"
        raise ConfigError("distributed.devices", config.processes_per_node, rule, remedy)
    return gpus > 0


def _why_no_gpu() -> str:
    """Return PyTorch's reason: no driver, one that is too old, or a PyTorch without CUDA."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:  # the first: PyTorch was built without CUDA
        return one_line(error).split(". ")[0].strip(". ")
    return "CUDA_VISIBLE_DEVICES names none"


def let_segments_grow() -> None:
    """Let the allocator of GPU memory grow its segments. Call it before the first allocation.

    Micro-batches of finetuning, of images and of documents differ in size, and pieces of memory
    that fit none of them stay unused otherwise. A user's own settings of the allocator count.
    """
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & set(os.environ):
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def use_deterministic_kernels() -> None:
    """Let every kernel on GPUs give the same bits every time. Call it before the first one runs."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("NCCL_ALGO", "Ring")
    # transformers asks nothing else of how its flash attention adds up.
    os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"
    torch.use_deterministic_algorithms(True)


class OtherRankError(UserError):
    """Another rank has an error, and prints it."""

    final = False
    is_consequence = True

    def __init__(self, message: str, *, told_here: bool = False) -> None:
        """Take the message, and whether that rank is on this node."""
        super().__init__(message)
        self.told_here = told_here


class World:
    """This process among the run's processes."""

    def __init__(self, config: DistributedConfig) -> None:
        """Start the other processes if needed, and join the process group."""
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy

        cuda = uses_cuda(config)
        if not cuda:
            # Before any import of deepspeed, which would otherwise choose a GPU.
            os.environ["DS_ACCELERATOR"] = "cpu"
        else:
            let_segments_grow()
        if cuda and config.deterministic:
            use_deterministic_kernels()
        devices = config.processes_per_node
        self.fabric = Fabric(
            accelerator="cuda" if cuda else "cpu",
            devices=devices,
            num_nodes=max(1, config.world_size // devices),
            strategy=DDPStrategy(process_group_backend="nccl" if cuda else "gloo"),
        )
        # Before Fabric starts processes: it sets OMP_NUM_THREADS for them.
        self.threads = cpu_budget(config.threads, field="distributed.threads", processes=devices)
        """CPU threads of this process."""
        with _told_to_children(self.threads):
            self.fabric.launch()
        self._ranks_per_node = devices
        self.waits_for_main = False
        """Whether this rank waits for long work of rank 0."""
        self.rank: int = self.fabric.global_rank
        self.local_rank: int = self.fabric.local_rank
        self.size: int = self.fabric.world_size
        self.device: torch.device = self.fabric.device
        # DeepSpeed reads its rank and world size only from these variables.
        os.environ.update(
            RANK=str(self.rank), LOCAL_RANK=str(self.local_rank), WORLD_SIZE=str(self.size)
        )
        torch.set_num_threads(self.threads.count)

    @cached_property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes the files that exist once."""
        return self.rank == 0

    def end_others(self, ranks: Sequence[int]) -> None:
        """Kill ranks: those that this process started, and the one that started it.

        A launcher ends the ranks that it started. Without a launcher, rank 0 of a node starts the
        others, and nobody else ends a rank that does not answer.
        """
        first = self.rank - self.local_rank  # of this node
        children = getattr(getattr(self.fabric.strategy, "launcher", None), "procs", [])
        for child in (children[rank - first - 1] for rank in ranks
                      if 0 < rank - first <= len(children)):  # fmt: skip
            child.kill()
        if first in ranks and self.local_rank and _is_same_command(os.getppid()):
            os.kill(os.getppid(), signal.SIGKILL)

    def sum(self, values: Sequence[float] | torch.Tensor) -> list[float]:
        """Return the sums of numbers over all ranks, in fp64.

        It costs one collective and one host-device sync.
        """
        total = torch.as_tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()  # host-device sync

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank. All ranks call it together."""
        return self.sum([float(flag)])[0] > 0

    def any_and_here(self, flag: bool) -> tuple[bool, bool]:
        """Return whether the flag is set on any rank, and on any of this node.

        All ranks call it together.
        """
        flags = [0.0] * -(-self.size // self._ranks_per_node)
        node = (self.rank - self.local_rank) // self._ranks_per_node
        flags[node] = float(flag)
        counts = self.sum(flags)
        return sum(counts) > 0, counts[node] > 0

    def broadcast(self, value: int) -> int:
        """Return rank 0's value on every rank. All ranks call it together."""
        shared = torch.tensor([value], dtype=torch.int64, device=self.device)
        dist.broadcast(shared, src=0)
        return int(shared.item())

    @cached_property
    def _patient(self) -> Any:
        """A process group on the CPU whose collectives wait up to a day.

        All ranks must use it for the first time together.
        """
        return dist.new_group(backend="gloo", timeout=timedelta(days=1))

    def from_main(self, find: Callable[[], str]) -> str:
        """Return on every rank the text that `find` returns on rank 0, however long it takes.

        A request to stop does not end it.

        Raises:
            OtherRankError: see ``run_on_main``.
        """
        found = ""

        def work() -> None:
            nonlocal found
            found = find()

        self.run_on_main(work, takes_long=True, may_stop=False)
        content = found.encode()
        size = self.broadcast(len(content))
        content = content if self.is_main else bytes(size)
        shared = torch.tensor(list(content), dtype=torch.uint8, device=self.device)
        dist.broadcast(shared, src=0)
        return bytes(shared.tolist()).decode()

    def run_on_main(
        self, work: Callable[[], object], *, takes_long: bool = False, may_stop: bool = True
    ) -> None:
        """Call `work` on rank 0, and tell every rank how it ended.

        Args:
            work: is called on rank 0.
            takes_long: whether it may take longer than the half hour that a collective waits.
            may_stop: whether a request to stop on rank 0 ends work early that takes long.

        Raises:
            StoppedError: on every rank, if the work was ended early.
            OtherRankError: on the other ranks, if `work` raised an error. Rank 0 raises the error
                itself.
        """
        error: Exception | StoppedError | None = None
        if takes_long:
            _ = self._patient  # a collective: make it before the work, while all ranks are here
        if self.is_main:
            try:
                with breaking_off() if takes_long and may_stop else nullcontext():
                    work()
            except (Exception, StoppedError) as raised:
                error = raised
        kinds = (Exception, StoppedError)
        mine = [float(isinstance(error, kind)) for kind in kinds]
        if takes_long:
            self.waits_for_main = not self.is_main
            failed, stopped = self._sum_patiently(mine)
            self.waits_for_main = False
        else:
            failed, stopped = self.sum(mine)
        if error is not None:
            raise error
        if stopped:
            raise StoppedError
        if failed:
            what = "another rank failed; see the message of rank 0"
            raise OtherRankError(what, told_here=self.rank == self.local_rank)

    def run_on_each_node(self, work: Callable[[], object], *, otherwise: str) -> None:
        """Call `work` on the first rank of each node, however long it takes; all ranks wait for it.

        A request to stop does not end it.

        Raises:
            OtherRankError: with the text `otherwise`, on the ranks where `work` did not fail. A
                rank where it failed raises its error.
        """
        error: Exception | None = None
        _ = self._patient
        if self.local_rank == 0:
            try:
                work()
            except Exception as raised:
                error = raised
        self._sum_patiently([0.0])  # from here on all ranks are here
        failed, failed_here = self.any_and_here(error is not None)
        if error is not None:
            raise error
        if failed:
            raise OtherRankError(otherwise, told_here=failed_here)

    def _sum_patiently(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all ranks; wait up to a day for the last one."""
        total = torch.tensor(values)
        dist.all_reduce(total, group=self._patient)
        return total.tolist()

    def run_on_all(self, work: Callable[[], object], *, otherwise: str) -> None:
        """Call `work` on every rank. If it fails on one rank, stop all.

        A request to stop ends the work of its rank early. `work` must leave nothing half done.

        Raises:
            StoppedError: on every rank, if the work of one was ended early.
            OtherRankError: with the text `otherwise`, on the ranks where `work` did not fail. A
                rank where it failed raises its error.
        """
        error: Exception | StoppedError | None = None
        try:
            with breaking_off():
                work()
        except (Exception, StoppedError) as raised:
            error = raised
        failed, failed_here = self.any_and_here(isinstance(error, Exception))
        stopped = self.any(isinstance(error, StoppedError))
        if isinstance(error, Exception):
            raise error
        if failed:
            raise OtherRankError(otherwise, told_here=failed_here)
        if stopped:
            raise StoppedError


class Ranks:
    """The ranks of a run, also before they are needed: some work is done by one for all.

    If a launcher started the ranks, they join for the first such work. Otherwise only this process
    is there, and works alone. It tells the others when it starts them (``join``), so that mistakes
    which are found before are told once.
    """

    def __init__(self, config: DistributedConfig) -> None:
        self._config = config
        self._world: World | None = None
        self._told: list[Callable[[World], object]] = []

    def from_main(self, find: Callable[[], str]) -> str:
        """Return on every rank the text that `find` returns on rank 0. All ranks call it.

        Raises:
            OtherRankError: see ``World.run_on_main``.
        """
        if self._others_wait:
            return self.join().from_main(find)
        found = find()
        self._told.append(lambda world: world.from_main(lambda: found))
        return found

    def run_on_each_node(self, work: Callable[[], object], *, otherwise: str) -> None:
        """Call `work` on the first rank of each node; see ``World.run_on_each_node``."""
        if self._others_wait:
            self.join().run_on_each_node(work, otherwise=otherwise)
            return
        work()
        self._told.append(lambda world: world.run_on_each_node(lambda: None, otherwise=otherwise))

    def join(self) -> World:
        """Return the world of all ranks. Start the other ranks if no launcher did."""
        if self._world is None:
            self._world = World(self._config)
            for tell in self._told:
                tell(self._world)
        return self._world

    @property
    def _others_wait(self) -> bool:
        """Whether there are other ranks already, which call the same methods."""
        return self._world is not None or (has_launcher() and self._config.world_size > 1)


@contextmanager
def _told_to_children(threads: CpuBudget) -> Iterator[None]:
    """Set OMP_NUM_THREADS for processes that are started meanwhile; then put it back."""
    former = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads.count)
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if former is not None:
            os.environ["OMP_NUM_THREADS"] = former


def _is_same_command(process: int) -> bool:
    """Return whether a process has the same arguments as this one: a rank of the same run."""
    with suppress(OSError):
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[:-1]
        mine = [os.fsencode(word) for word in sys.argv[1:]]
        return bool(mine) and words[-len(mine) :] == mine
    return False


def close() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
