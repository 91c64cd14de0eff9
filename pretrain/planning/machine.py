"""The machine that a run is planned for, and what all stages' 'plan' print."""

import json
from dataclasses import asdict, dataclass

from mobilellama.config import ConfigError, require_at_least
from mobilellama.pretrain.config import RunConfig
from mobilellama.pretrain.planning.gpus import gpu_named
from mobilellama.pretrain.planning.outline import PlannedTraining
from mobilellama.pretrain.planning.outlook import Machine, look_at
from mobilellama.pretrain.planning.shown import shown_plan
from mobilellama.pretrain.state.config import CheckpointConfig


@dataclass(frozen=True, kw_only=True)
class PlannedRun(RunConfig):
    """A run that need not exist."""

    folder: str = ""
    """Not used by a plan."""


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """The fields that every stage's 'plan' has."""

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

    def __post_init__(self) -> None:
        require_at_least("gpus", self.gpus, 1)
        require_at_least("reserve_gib", self.reserve_gib, 0)
        for name in ("mfu", "network_gb_per_s", "disk_gb_per_s"):
            if (value := getattr(self, name)) <= 0:
                raise ConfigError(name, value, "must be above 0", "Give a positive number")
        if self.mfu > 1:
            raise ConfigError("mfu", self.mfu, "must be at most 1", "Give a share such as 0.5")
        gpu_named(self.gpu)

    @property
    def machine(self) -> Machine:
        """The machine in bytes and seconds."""
        return Machine(
            gpu_name=self.gpu,
            gpu=gpu_named(self.gpu),
            gpus=self.gpus,
            mfu=self.mfu,
            reserve_gib=self.reserve_gib,
            network_bytes_per_s=self.network_gb_per_s * 1e9,
            disk_bytes_per_s=self.disk_gb_per_s * 1e9,
        )


def print_plan(
    planned: PlannedTraining, config: MachineConfig, checkpoint: CheckpointConfig
) -> int:
    """Print the plan; return 1 if the run does not fit.

    Raises:
        ConfigError: the GPUs cannot divide the batch.
    """
    outlook = look_at(planned, config.machine, checkpoint)
    print(json.dumps(asdict(outlook), indent=2) if config.json else shown_plan(outlook))
    return 0 if outlook.fits else 1
