"""Logging, configured once by a command's ``main``; metrics and results do not pass through it.

What libraries say passes through the same handler, so that one policy decides what is told.
"""

import logging
import os
import sys
import warnings

from mobilellama.config import ConfigError
from mobilellama.terminal import clear_line, columns

_OURS = ("mobilellama", "__main__", "demo", "benchmarks", "root")
# Libraries that bring a handler of their own, and what their records must be worth to be told.
# What transformers, datasets and DeepSpeed warn of is checked by ours, or is meant so.
_LIBRARIES = {
    "DeepSpeed": logging.ERROR,
    "bitsandbytes": logging.ERROR,
    "datasets": logging.ERROR,
    "fsspec": logging.ERROR,
    "huggingface_hub": logging.WARNING,
    "lightning": logging.WARNING,
    "lightning.fabric": logging.WARNING,
    "lightning.pytorch": logging.WARNING,
    "transformers": logging.ERROR,
}
_WARNING_OF_THE_FUTURE = r"(torch|deepspeed|lightning|transformers|huggingface_hub|datasets|peft)\b"


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
    """Writes to stderr: our records, and of libraries what is worth a warning (_LIBRARIES)."""

    def filter(self, record: logging.LogRecord) -> bool:
        package = record.name.partition(".")[0]
        if package not in _OURS and record.levelno < _LIBRARIES.get(package, logging.WARNING):
            return False
        return super().filter(record)

    def format(self, record: logging.LogRecord) -> str:
        """Let the message take the place of a progress bar, which is drawn again below."""
        return clear_line() + super().format(record)


class _LibraryLogger(logging.Logger):
    """A library's logger that keeps to our handler.

    Libraries add a handler when they are imported, some leave the root's on as well: their
    records were told twice, or past our levels.
    """

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802
        """Add none."""

    @property
    def propagate(self) -> bool:
        """Always true."""
        return True

    @propagate.setter
    def propagate(self, value: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        pass


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
    for name in _LIBRARIES:  # whether imported by now or later
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.__class__ = _LibraryLogger
    logging.getLogger("torch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=_WARNING_OF_THE_FUTURE)
    # On a login node, where a run without srun is meant so.
    warnings.filterwarnings("ignore", message="The `srun` command is available")
