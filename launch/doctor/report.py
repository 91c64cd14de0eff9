"""What one process of the doctor's job found, and the folder through which it tells."""

import contextlib
import importlib.metadata
import os
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mobilellama.files.atomic import read_json, write_json

STAGES = ("shared folder", "torch", "GPUs", "rendezvous", "clocks", "all-reduce")
DONE = "done"
LOGIN_FILE = "login"
QUESTION, ANSWER = "clock-question", "clock-answer"

_POLL_S = 0.1


@dataclass(kw_only=True)
class Report:
    """What one process found; None is what it did not come to."""

    node: str
    rank: int
    python: str
    mobilellama: str
    torch: str | None
    """Its version; None where it is not installed."""
    stage: str = ""
    """Where the process is, or ended."""
    error: str | None = None
    unseen: list[str] = field(default_factory=list)
    """Files of the others, by their names, that did not appear."""
    import_s: float | None = None
    gpus: int = 0
    gpu_name: str = ""
    rendezvous_s: float | None = None
    clock_s: float | None = None
    """This node's clock just after a barrier."""
    login_ahead_s: tuple[float, float] | None = None
    """The login node's clock less this one's: at least, at most."""
    all_reduce_s: dict[str, float] = field(default_factory=dict)
    """Seconds of an all-reduce by its MiB."""

    def write(self, folder: Path, stage: str) -> None:
        """Write FOLDER/rank-N.json at the beginning of a stage."""
        self.stage = stage
        write_json(folder / f"rank-{self.rank}.json", asdict(self))


def torch_version() -> str | None:
    """Return the version of torch that is installed here, without importing it."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def wait_for_files(folder: Path, names: Collection[str], within_s: float) -> list[str]:
    """Wait until files are in a folder, and return those that did not appear."""
    end_s = time.monotonic() + within_s
    while True:
        # To open the folder makes NFS look; to ask for one name may be answered from memory.
        left = set(names).difference(os.listdir(folder))
        if not left or time.monotonic() > end_s:
            return sorted(left)
        time.sleep(_POLL_S)


def read_reports(folder: Path) -> list[Report]:
    """Return what the processes have written so far, by rank."""
    found = []
    for path in folder.glob("rank-*.json"):
        with contextlib.suppress(OSError):  # NFS: replaced by its writer just now
            found.append(Report(**read_json(path)))
    return sorted(found, key=lambda report: report.rank)
