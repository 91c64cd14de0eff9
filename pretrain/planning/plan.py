"""Say what a run needs before it starts. Nothing is written, and no GPU is needed.

  mobilellama pretrain plan --config mobilellama_1_4b --gpus 160 --gpu a100-80g
  mobilellama pretrain plan --config mobilellama_2_7b --gpus 8 --gpu h100 --json true

It prints the memory of one GPU by kind, the largest micro-batch that fits, the communication of a
step, the hours of the run, the stall of a save, and the disk space of the checkpoints.

All of it is arithmetic. The bytes of weights, gradients, masters and optimizer state are those that
the engines hold. Activations are those of layers that are not compiled; compiled layers keep less.
The hours follow from --mfu. The exit code is 1 if the run does not fit.
"""

import json
from dataclasses import asdict, dataclass, field

from mobilellama import log as logs
from mobilellama.config import ConfigError, require_at_least
from mobilellama.pretrain.config import Config as RunConfigOfPretraining
from mobilellama.pretrain.config import RunConfig
from mobilellama.pretrain.planning.gpus import gpu_named
from mobilellama.pretrain.planning.outline import PlannedTraining
from mobilellama.pretrain.planning.outlook import Machine, RunOutlook, look_at
from mobilellama.pretrain.planning.shown import shown_plan
from mobilellama.pretrain.sections import MixtureConfig


@dataclass(frozen=True, kw_only=True)
class PlannedRun(RunConfig):
    """A run that need not exist."""

    folder: str = ""
    """Not used by a plan."""


@dataclass(frozen=True, kw_only=True)
class PlannedData(MixtureConfig):
    """Data that need not exist."""

    path: str = ""
    """Not used by a plan."""


@dataclass(frozen=True, kw_only=True)
class Config(RunConfigOfPretraining):
    """The run's own config, and the machine."""

    gpus: int
    """Number of GPUs of the run, one for each process."""
    gpu: str
    """Their kind: a100-40g, a100-80g, h100, h100-pcie, h100-nvl, h200, h200-nvl, l40s, a10 or
    l4."""
    mfu: float = 0.5
    """Share of the GPU's dense bf16 peak that the run reaches, communication included. On 160 A100s
    the paper reached 0.542 with 1.4B and 0.483 with 2.7B parameters."""
    reserve_gib: float = 4.0
    """GiB of each GPU that the plan leaves to CUDA, NCCL and the allocator's gaps."""
    network_gb_per_s: float = 20.0
    """Gigabytes a second that a rank sends in collectives."""
    disk_gb_per_s: float = 2.0
    """Gigabytes a second that all ranks together write."""
    json: bool = False
    """Print JSON, not tables."""
    run: PlannedRun = field(default_factory=PlannedRun)
    """Where the run lives: a plan does not look."""
    data: PlannedData = field(default_factory=PlannedData)
    """Which samples: a plan does not read them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("gpus", self.gpus, 1)
        require_at_least("reserve_gib", self.reserve_gib, 0)
        for name in ("mfu", "network_gb_per_s", "disk_gb_per_s"):
            if (value := getattr(self, name)) <= 0:
                raise ConfigError(name, value, "must be above 0", "Give a positive number")
        if self.mfu > 1:
            raise ConfigError("mfu", self.mfu, "must be at most 1", "Give a share such as 0.5")
        gpu_named(self.gpu)


def main(config: Config) -> int:
    """Print the plan; return 1 if the run does not fit."""
    logs.configure()
    outlook = plan(config)
    if config.json:
        print(json.dumps(asdict(outlook), indent=2))
    else:
        print(shown_plan(outlook))
    return 0 if outlook.fits else 1


def plan(config: Config) -> RunOutlook:
    """Return the plan of a run.

    Raises:
        ConfigError: the GPUs cannot divide the batch.
    """
    trained = PlannedTraining(
        model=config.model,
        train=config.train,
        engine=config.engine,
        optimizer=config.optimizer,
    )
    machine = Machine(
        gpu_name=config.gpu,
        gpu=gpu_named(config.gpu),
        gpus=config.gpus,
        mfu=config.mfu,
        reserve_gib=config.reserve_gib,
        network_bytes_per_s=config.network_gb_per_s * 1e9,
        disk_bytes_per_s=config.disk_gb_per_s * 1e9,
    )
    return look_at(trained, machine, config.checkpoint)
