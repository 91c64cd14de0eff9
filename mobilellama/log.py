"""Logging, configured once by a command's ``main``; metrics and results do not pass through it."""

import logging
import os
import sys
import warnings

from mobilellama.config import ConfigError
from mobilellama.terminal import clear_line, columns

# Libraries whose INFO lines say nothing to a user of ours. (deepspeed and lightning set their
# own level when they are imported, and are quietened there.)
_NOISY = ("datasets", "httpx", "fsspec", "torch")


def rank_from_environment() -> int:
    """Return this process's rank as its launcher tells it, before it has joined the others."""
    return number_from_environment("RANK", "SLURM_PROCID", "LOCAL_RANK")


def local_rank_from_environment() -> int:
    """Return this process's rank on its node as its launcher tells it."""
    return number_from_environment("LOCAL_RANK", "SLURM_LOCALID")


def has_launcher() -> bool:
    """Return whether this process is a rank that torchrun, SLURM or another rank started."""
    return bool({"LOCAL_RANK", "SLURM_PROCID"} & set(os.environ))


def number_from_environment(*names: str) -> int:
    """Return the first of the variables that is set, as a number, or 0.

    Raises:
        ConfigError: it is no number.
    """
    for name in names:
        if value := os.environ.get(name):
            if not value.isdigit():
                rule, remedy = "must be a number", "Let torchrun or SLURM set it, or unset it"
                raise ConfigError(f"the environment's {name}", value, rule, remedy)
            return int(value)
    return 0


class _Handler(logging.StreamHandler):
    """Writes to stderr; a message takes the place of a progress bar, which is drawn again below."""

    def format(self, record: logging.LogRecord) -> str:
        return clear_line() + super().format(record)


def message_width() -> int | None:
    """Return how much of a message of rank 0 fits into a line; None where stderr is no terminal."""
    width = columns()
    return None if width is None else width - len("2026-01-31 12:00:00 I ")


def configure(*, rank: int = 0) -> None:
    """Log to stderr: INFO and above on rank 0, WARNING and above (with the rank) elsewhere."""
    prefix = "" if rank == 0 else f"[rank {rank}] "
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format=f"%(asctime)s %(levelname).1s {prefix}%(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        handlers=[_Handler(sys.stderr)],
        force=True,
    )
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"(torch|deepspeed|lightning)\b"
    )
