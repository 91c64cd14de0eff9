"""Logging. A command's ``main`` configures it once. Metrics and results do not use it.

Records of libraries use the same handler, so one policy decides which are shown.
"""

import logging
import os
import sys
import warnings

from mobilellama.config import ConfigError
from mobilellama.terminal import clear_line, columns, shown_width, wrapped

_OURS = ("mobilellama", "__main__", "demo", "benchmarks", "root")
# Libraries that have their own handler, and the lowest level of theirs that is shown. Warnings of
# transformers, datasets and DeepSpeed are about things that this project checks or intends.
_LIBRARIES = {
    "DeepSpeed": logging.ERROR,
    "bitsandbytes": logging.ERROR,
    "datasets": logging.ERROR,
    "fsspec": logging.ERROR,
    "huggingface_hub": logging.WARNING,
    "lightning_fabric": logging.WARNING,
    "transformers": logging.ERROR,
}
_WARNING_OF_THE_FUTURE = (
    r"(torch|deepspeed|lightning_fabric|transformers|huggingface_hub|datasets|peft)\b"
)


def rank_from_environment() -> int:
    """Return this process's rank from the launcher's variables, before ``World`` exists."""
    return number_from_environment("RANK", "SLURM_PROCID", "LOCAL_RANK")


def local_rank_from_environment() -> int:
    """Return this process's rank on its node from the launcher's variables."""
    return number_from_environment("LOCAL_RANK", "SLURM_LOCALID")


def has_launcher() -> bool:
    """Return whether this process is a rank that torchrun, SLURM or another rank started."""
    return bool({"LOCAL_RANK", "SLURM_PROCID"} & set(os.environ))


def number_from_environment(*names: str) -> int:
    """Return the value of the first variable that is set, or 0.

    Raises:
        ConfigError: the value is not a number.
    """
    for name in names:
        if value := os.environ.get(name):
            if not value.isdigit():
                rule, remedy = "must be a number", "Let torchrun or SLURM set it, or unset it"
                raise ConfigError(f"the environment's {name}", value, rule, remedy)
            return int(value)
    return 0


class _Handler(logging.StreamHandler):
    """Write to stderr: our records, and those of libraries from their level in _LIBRARIES on."""

    def filter(self, record: logging.LogRecord) -> bool:
        package = record.name.partition(".")[0]
        if package not in _OURS and record.levelno < _LIBRARIES.get(package, logging.WARNING):
            return False
        return super().filter(record)

    def format(self, record: logging.LogRecord) -> str:
        """Replace a progress bar by the message, in lines that fit. It is drawn again below."""
        return clear_line() + wrapped(super().format(record), columns())


class _LibraryLogger(logging.Logger):
    """A library's logger that uses only our handler.

    Libraries add a handler when they are imported, and some also use the root's. Then their
    records would be shown twice, or below our levels.
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
    """Return how many characters of a log message fit into a line; None without a terminal."""
    width = shown_width()
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
    for name in _LIBRARIES:  # imported already or later
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.__class__ = _LibraryLogger
    logging.getLogger("torch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=_WARNING_OF_THE_FUTURE)
    # Lightning warns on a login node, where a run without srun is intended.
    warnings.filterwarnings("ignore", message="The `srun` command is available")
