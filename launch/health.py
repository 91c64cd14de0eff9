"""Is this node well? One process a GPU runs this on every node of a job, before the training.

    srun python -m mobilellama.launch.health --output LOGS/health --gpus 8 --scratch DIR ...

Per node, its first process:
    1. ends what a former start of the same launch left running here, and removes its scratch;
    2. looks at the room in the scratch folder, the number of GPUs and the memory others hold.
Then, with --collective, all processes:
    3. an all-reduce among the node's own processes, timed; it names a node with a bad GPU or link;
    4. where all nodes came so far, an all-reduce over all processes.

OUTPUT/NODE begins with OK or BAD and says what was found. It is written in any case, also when
the time is up. torch is imported for the collectives only.
"""

import argparse
import math
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from mobilellama import launcher
from mobilellama.files.temporary import temporary_path
from mobilellama.progress import format_count

LOCAL = "local"
"""Folder, inside that of the reports, of the seconds that each node's own all-reduce took."""

_LOCAL_MIB = 256
_CPU_MIB = 4
_SLOW = 3.0
"""A GPU node whose own all-reduce takes so many times the median is taken for bad."""
_POLL_S = 0.1


class BadNodeError(Exception):
    """What is wrong with this node."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """This process among the job's."""

    node: str
    rank: int
    world_size: int
    local_rank: int
    local_size: int
    nodes: int

    @classmethod
    def of_slurm(cls) -> "Place":
        """Return what srun's variables say."""
        nodes = int(os.environ["SLURM_NNODES"])
        size = int(os.environ["SLURM_NTASKS"])
        return cls(
            node=node_name(),
            rank=int(os.environ["SLURM_PROCID"]),
            world_size=size,
            local_rank=int(os.environ["SLURM_LOCALID"]),
            local_size=size // nodes,
            nodes=nodes,
        )


def node_name() -> str:
    """Return SLURM's name of this node."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def main(argv: Sequence[str] | None = None) -> int:
    """Check this process's node and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--gpus", type=int, required=True, help="that the node must have")
    parser.add_argument("--max_gpu_used_mib", type=int, required=True)
    parser.add_argument("--scratch", type=Path, required=True, help="this start's folder")
    parser.add_argument("--min_scratch_gib", type=float, required=True)
    parser.add_argument("--collective", choices=("true", "false"), required=True)
    parser.add_argument("--timeout_s", type=int, required=True)
    options = parser.parse_args(argv)
    place = Place.of_slurm()
    report = NodeReport(options.output, place)
    deadline_s = time.monotonic() + options.timeout_s

    def time_is_up() -> None:
        report.write(f"BAD {report.stage} did not end in {options.timeout_s} s")
        os._exit(1)

    # A thread, not SIGALRM: Python runs no signal's handler while a collective hangs.
    timer = threading.Timer(options.timeout_s, time_is_up)
    timer.daemon = True
    timer.start()
    try:
        found = []
        if place.local_rank == 0:
            found += check_node(options, report)
        if options.collective == "true":
            found += check_collectives(place, report, gpus=options.gpus > 0, deadline_s=deadline_s)
    except BadNodeError as error:
        report.write(f"BAD {error}")
        return 1
    except Exception as error:  # whatever a driver or a library throws
        report.write(f"BAD {report.stage}: {type(error).__name__}: {' '.join(str(error).split())}")
        return 1
    said = f"OK {', '.join(found) or 'nothing to check'}"
    report.write(said)
    if place.local_rank == 0:
        print(f"{place.node} rank {place.rank}: {said}", flush=True)
    return 0


class NodeReport:
    """What the first process of a node writes about it."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder, self._place = folder, place
        self.stage = "looking at the node"

    def write(self, text: str, *, below: str = "") -> None:
        """Write OUTPUT/NODE, or OUTPUT/BELOW/NODE; the node's other processes only print."""
        if self._place.local_rank == 0:
            path = self.folder / below / self._place.node
            # Hidden, because those who wait read every other file of the folder. A name for each
            # write, because the thread that ends the check may write at the same time.
            half = temporary_path(path.with_name(f".{path.name}"))
            half.write_text(f"{text}\n", encoding="utf-8")
            half.replace(path)
        else:
            print(f"{self._place.node} rank {self._place.rank}: {text}", flush=True)


def check_node(options: argparse.Namespace, report: NodeReport) -> list[str]:
    """Clean up after former starts and look at scratch and GPUs.

    Raises:
        BadNodeError: naming what is wrong.
    """
    found = []
    if ended := end_leftovers():
        found.append(f"ended {format_count(ended, 'process')} of a former start")
    remove_scratch(options.scratch)
    report.stage = "asking for free room in the scratch folder"
    free_gib = shutil.disk_usage(options.scratch).free / 2**30
    if free_gib < options.min_scratch_gib:
        raise BadNodeError(
            f"scratch: {free_gib:.2f} GiB free in {options.scratch}, below slurm.min_scratch_gib = "
            f"{options.min_scratch_gib}"
        )
    found.append(f"scratch {free_gib:.0f} GiB")
    if options.gpus:
        report.stage = "nvidia-smi"
        check_gpus(gpu_memory_used(), options.gpus, options.max_gpu_used_mib)
        found.append(format_count(options.gpus, "GPU"))
    return found


def gpu_memory_used() -> list[tuple[str, int]]:
    """Return (index, MiB in use) of the GPUs that this job sees.

    Raises:
        BadNodeError: the driver does not answer.
    """
    query = "--query-gpu=index,uuid,memory.used"
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True, text=True, errors="replace", timeout=60, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise BadNodeError("GPUs: nvidia-smi is not found") from None
    except subprocess.TimeoutExpired:
        raise BadNodeError("GPUs: no answer from nvidia-smi in 60 s") from None
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())
        raise BadNodeError(f"GPUs: nvidia-smi says: {said}")
    rows = [
        [cell.strip() for cell in line.split(",")]
        for line in done.stdout.splitlines()
        if line.strip()
    ]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [(index, int(mib)) for index, uuid, mib in rows if is_visible(index, uuid, visible)]


def is_visible(index: str, uuid: str, visible: str | None) -> bool:
    """Return whether CUDA_VISIBLE_DEVICES, of indices or (parts of) UUIDs, names a GPU.

    Parts of GPUs (MIG) are not told apart: with them, all are taken to be visible.
    """
    if visible is None or "MIG-" in visible:
        return True
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return any(name == index or uuid.startswith(name) for name in names)


def check_gpus(used: Sequence[tuple[str, int]], wanted: int, max_used_mib: int) -> None:
    """Raise BadNodeError unless so many GPUs are there, and free."""
    if len(used) < wanted:
        raise BadNodeError(f"GPUs: {len(used)} of {wanted} answer")
    held = [f"{mib} MiB on GPU {index}" for index, mib in used if mib > max_used_mib]
    if held:
        raise BadNodeError(f"GPUs: others hold {', '.join(held)}")


def end_leftovers() -> int:
    """Kill this user's processes that a former start of this launch left on this node.

    They are known by their environment: the same launch, another start. They live on where a
    node's daemon died and came back.

    Returns:
        How many there were.
    """
    launch = os.environ.get(launcher.LAUNCH)
    mine = f"{launcher.STOP_FILE}={os.environ.get(launcher.STOP_FILE, '')}".encode()
    if not launch:
        return 0
    ended = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or somebody else's
            continue
        # Another array's task has another mark of its own: trains alone are checked.
        if f"{launcher.LAUNCH}={launch}".encode() in variables and mine not in variables:
            try:
                os.kill(int(entry.name), signal.SIGKILL)
                ended += 1
            except OSError:
                continue
    return ended


def remove_scratch(mine: Path) -> None:
    """Remove the scratch folders that former starts of the same job left: NAME.0, NAME.1, ..."""
    stem = mine.name.rpartition(".")[0]
    for path in mine.parent.glob(f"{stem}.*"):
        if path != mine and stem:
            shutil.rmtree(path, ignore_errors=True)


def check_collectives(
    place: Place, report: NodeReport, *, gpus: bool, deadline_s: float
) -> list[str]:
    """Time an all-reduce within the node, then over all nodes.

    Raises:
        BadNodeError: this node's own is slow.
    """
    import torch.distributed as dist

    report.stage = "the all-reduce within the node"
    port = int(os.environ["MASTER_PORT"])
    local_port = port + 1 + place.rank // place.local_size  # "nodes" may share a network
    left_s = deadline_s - time.monotonic()
    join(
        "127.0.0.1", local_port, place.local_rank, place.local_size,
        gpus=gpus, device=place.local_rank, timeout_s=left_s / 3,
    )  # fmt: skip
    device, mib = (place.local_rank, _LOCAL_MIB) if gpus else (None, _CPU_MIB)
    local_s = time_all_reduce(device, mib=mib)
    dist.destroy_process_group()
    report.write(f"{local_s:.6f}", below=LOCAL)
    report.stage = "waiting for the other nodes"
    times = wait_for_nodes(report.folder, place.nodes, deadline_s=deadline_s)
    found = [f"local all-reduce {1e3 * local_s:.1f} ms"]
    slow_s = _SLOW * statistics.median(times) if gpus and len(times) > 2 else math.inf
    if local_s > slow_s:
        raise BadNodeError(
            f"its all-reduce took {local_s:.3f} s, over {_SLOW:g} times the nodes' median of "
            f"{slow_s / _SLOW:.3f} s"
        )
    # All read the same files: where one node stays away, nobody waits for it.
    if len(times) < place.nodes or max(times) > slow_s:
        return [*found, "another node failed its check"]
    if place.nodes > 1:
        report.stage = "the all-reduce over all nodes"
        host = os.environ["MASTER_ADDR"]
        left_s = deadline_s - time.monotonic()
        join(
            host, port, place.rank, place.world_size,
            gpus=gpus, device=place.local_rank, timeout_s=left_s,
        )  # fmt: skip
        all_s = time_all_reduce(device, mib=mib)
        dist.destroy_process_group()
        found.append(f"all-reduce over {place.nodes} nodes {1e3 * all_s:.1f} ms")
    return found


def wait_for_nodes(folder: Path, nodes: int, *, deadline_s: float) -> list[float]:
    """Return the seconds of every node's own all-reduce; fewer if one is bad, or time is up."""
    while True:
        times = [float(path.read_text()) for path in (folder / LOCAL).glob("[!.]*")]
        bad = any(
            path.read_text(errors="replace").startswith("BAD")
            for path in folder.glob("[!.]*")
            if path.is_file() and path.suffix != ".log"
        )
        # Some seconds are kept, so that the well nodes can still say that they are.
        if len(times) >= nodes or bad or time.monotonic() > deadline_s - 15:
            return times
        time.sleep(_POLL_S)


def join(
    host: str, port: int, rank: int, size: int, *, gpus: bool, device: int, timeout_s: float
) -> None:
    """Join a process group; rank 0 listens.

    Args:
        host: rank 0's.
        port: rank 0's.
        rank: this process's.
        size: processes.
        gpus: whether they use GPUs.
        device: this process's GPU.
        timeout_s: after which the others are waited for no longer.
    """
    import torch
    import torch.distributed as dist

    if gpus:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if gpus else "gloo",
        init_method=f"tcp://{host}:{port}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=max(timeout_s, 1.0)),
    )


def time_all_reduce(device: int | None, *, mib: int, rounds: int = 5) -> float:
    """Return the median seconds of an all-reduce, after one that is not counted.

    Args:
        device: this process's GPU; None is its CPU.
        mib: size of what is reduced.
        rounds: how often it is timed.
    """
    import torch
    import torch.distributed as dist

    where = torch.device("cpu") if device is None else torch.device("cuda", device)
    values = torch.ones(mib * 2**18, device=where)  # fp32

    def once() -> float:
        started_s = time.perf_counter()
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
        if device is not None:
            torch.cuda.synchronize()
        return time.perf_counter() - started_s

    once()
    return statistics.median(once() for _ in range(rounds))


def bus_gb_per_s(seconds: float, *, mib: int, world_size: int) -> float:
    """Return an all-reduce's bus bandwidth, 2 (n - 1) / n of its bytes a second.

    (nccl-tests, doc/PERFORMANCE.md)
    """
    moved = 2 * (world_size - 1) / world_size * mib * 2**20
    return moved / seconds / 1e9


if __name__ == "__main__":
    sys.exit(main())
