"""What the doctor's job runs on the nodes, one process a GPU, or one a node.

    srun python -m mobilellama.launch.doctor.node FOLDER GPUS

A process goes through the STAGES one by one. It writes FOLDER/rank-N.json at each of them, so that
also a process that hangs has said where.
"""

import os
import platform
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import mobilellama
from mobilellama.config import one_line
from mobilellama.files.atomic import read_json, write_json
from mobilellama.launch.doctor.report import (
    ANSWER,
    DONE,
    LOGIN_FILE,
    QUESTION,
    Report,
    torch_version,
    wait_for_files,
)
from mobilellama.launch.health import BadNodeError, Place, join, time_all_reduce
from mobilellama.progress import format_count

_SIZES_MIB = {True: (1, 16, 256), False: (1, 4, 16)}  # with GPUs and without
_FILES_S = 60.0  # NFS clients remember a folder's content for 30 s, and nodes start apart
_ANSWER_S = 20.0
_JOIN_S = 90.0
_NODES_S = 240.0  # cold imports of torch from a busy disk have taken minutes


def main(argv: Sequence[str] | None = None) -> int:
    """Go through the stages and write this process's report."""
    folder_name, gpus = argv or sys.argv[1:]
    folder, place = Path(folder_name), Place.of_slurm()
    report = Report(
        node=place.node,
        rank=place.rank,
        python=platform.python_version(),
        mobilellama=mobilellama.__version__,
        torch=torch_version(),
    )

    def time_is_up() -> None:
        report.error = f"it did not end in {_NODES_S:.0f} s"
        report.write(folder, report.stage)
        os._exit(1)

    # A thread: a signal's handler would wait for the collective that hangs.
    watchdog = threading.Timer(_NODES_S, time_is_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        examine_node(place, folder, report, gpus=int(gpus))
        report.write(folder, DONE)
    except Exception as error:  # whatever a driver or a library throws
        print(f"{report.stage}: {error!r}", file=sys.stderr)
        kind = "" if isinstance(error, BadNodeError) else f"{type(error).__name__}: "
        report.error = kind + one_line(error)[:300]
        report.write(folder, report.stage)
    watchdog.cancel()
    return 0 if report.stage == DONE else 1


def examine_node(place: Place, folder: Path, report: Report, *, gpus: int) -> None:
    """Go through the stages, filling the report.

    Raises:
        Exception: what ended the stage that the report names.
    """
    report.write(folder, "shared folder")
    (folder / f"from-{place.rank}").touch()
    others = [f"from-{rank}" for rank in range(place.world_size)]
    report.unseen = wait_for_files(folder, [LOGIN_FILE, *others], _FILES_S)

    report.write(folder, "torch")
    started_s = time.monotonic()
    import torch
    import torch.distributed as dist

    report.import_s = time.monotonic() - started_s
    if gpus:
        report.write(folder, "GPUs")
        report.gpus = torch.cuda.device_count()
        if report.gpus < gpus:
            raise BadNodeError(f"torch sees {report.gpus} of {format_count(gpus, 'GPU')}")
        report.gpu_name = torch.cuda.get_device_name(0)

    report.write(folder, "rendezvous")
    started_s = time.monotonic()
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    device = place.local_rank
    join(
        host, port, place.rank, place.world_size,
        gpus=gpus > 0, device=device, timeout_s=_JOIN_S,
    )  # fmt: skip
    dist.barrier()  # NCCL connects at the first collective
    report.rendezvous_s = time.monotonic() - started_s

    report.write(folder, "clocks")
    dist.barrier()
    if gpus:
        torch.cuda.synchronize()
    report.clock_s = time.time()
    if place.rank == 0:
        report.login_ahead_s = ask_login_clock(folder)

    report.write(folder, "all-reduce")
    for mib in _SIZES_MIB[gpus > 0] if place.world_size > 1 else ():
        seconds = time_all_reduce(device if gpus else None, mib=mib)
        report.all_reduce_s[str(mib)] = seconds
    dist.destroy_process_group()


def ask_login_clock(folder: Path) -> tuple[float, float] | None:
    """Return between what the login node's clock is ahead of this one; None if it is silent.

    It answers through the folder, so its moment lies between our question and our reading.
    """
    asked_s = time.time()
    write_json(folder / QUESTION, asked_s)
    if wait_for_files(folder, [ANSWER], _ANSWER_S):
        return None
    read_s = time.time()
    login_s = float(read_json(folder / ANSWER))
    return login_s - read_s, login_s - asked_s


if __name__ == "__main__":
    sys.exit(main())
