"""Weights & Biases: one W&B run for one run folder, however often it is resumed.

W&B's own environment variables say where to: WANDB_PROJECT ("mobilellama" without it),
WANDB_ENTITY, WANDB_NAME (the folder's name without it), WANDB_MODE=offline for nodes without a
network; RUN/wandb/ then waits for ``wandb sync``.
"""

import hashlib
import json
import logging
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mobilellama.config import ConfigError
from mobilellama.pretrain.sinks.sink import FIELD, MetricsRecord, SinkContext
from mobilellama.run_folder import RunFolder

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger(__name__)


def require() -> None:
    """Raise ConfigError if the package is not installed."""
    if find_spec("wandb") is None:
        remedy = "pip install 'mobilellama[wandb]', or leave it out"
        raise ConfigError(FIELD, "wandb", "needs the package wandb", remedy)


def open_sink(context: SinkContext) -> "WeightsAndBiases":
    """Begin the W&B run, or go on with it.

    Raises:
        ConfigError: the package is not installed.
        RuntimeError: nobody is logged in.
    """
    require()
    import wandb

    # init would ask at the terminal, and the training would wait for the answer.
    if os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False):
        raise RuntimeError(
            "no key is known; use 'wandb login', WANDB_API_KEY or WANDB_MODE=offline"
        )
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or "mobilellama",
        name=os.environ.get("WANDB_NAME") or context.run.path.absolute().name,
        id=run_id(context.run),
        resume="allow",
        dir=str(context.run.path),
        config={**context.config},
        # The console stays ours, and the run's code is not uploaded.
        settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
    )
    # W&B's own step may only grow, and a resumed run does steps again.
    run.define_metric("*", step_metric="step")
    log.info("Weights & Biases: %s", run.url or run.dir)
    return WeightsAndBiases(run)


def run_id(run: RunFolder) -> str:
    """Return an id that every attempt of a run shares, and no other run has."""
    # Not the whole file: what a later version reads of it has other names.
    begun = run.read_attempt(1)
    facts = [begun.get(name) for name in ("host", "pid", "started")]
    first = json.dumps([str(run.path.absolute()), *facts])
    return hashlib.sha256(first.encode("utf-8", "surrogateescape")).hexdigest()[:16]


class WeightsAndBiases:
    """Logs the finite values of a record."""

    def __init__(self, run: "Run") -> None:
        self._run = run

    def write(self, record: MetricsRecord) -> None:
        """Log a record, by the run's step."""
        self._run.log({"step": record.step, **record.finite()})

    def close(self) -> None:
        """Wait until everything is stored, and end."""
        self._run.finish()
