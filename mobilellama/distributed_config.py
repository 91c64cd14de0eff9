"""The section ``distributed`` of a run's config. It is read without torch."""

import os
from dataclasses import dataclass
from typing import Literal

from mobilellama.config import ConfigError, require_at_least
from mobilellama.log import number_from_environment


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """Where a run's processes are."""

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda if the machine has a GPU that torch can use, else cpu."""
    devices: int = 1
    """Number of processes per node, one for each GPU. Ignored under torchrun and SLURM."""
    nodes: int = 1
    """Number of nodes. Ignored under torchrun and SLURM."""
    threads: int | None = None
    """CPU threads of each process. null: your OMP_NUM_THREADS (torchrun's own 1 does not count),
    else an equal part of the smallest number that SLURM, a container's quota and the CPU affinity
    allow."""
    deterministic: bool = False
    """On GPUs, use only kernels that give the same bits every time. Slower. CPUs always do this."""

    def __post_init__(self) -> None:
        require_at_least("distributed.devices", self.devices, 1)
        require_at_least("distributed.nodes", self.nodes, 1)
        cores = os.cpu_count() or 1
        if self.threads is not None:
            require_at_least("distributed.threads", self.threads, 1)
            if self.threads > cores:
                rule = f"exceeds the {cores} cores of this machine"
                raise ConfigError("distributed.threads", self.threads, rule, "Lower it")
        if self.devices > max(64, cores):
            rule = "is more processes than any node runs"
            raise ConfigError("distributed.devices", self.devices, rule, "Count them per node")
        if self.nodes > 1 and not {"WORLD_SIZE", "NODE_RANK", "SLURM_PROCID"} & set(os.environ):
            remedy = "Start with torchrun or srun on every node"
            rule = "needs a launcher that starts the other nodes' processes"
            raise ConfigError("distributed.nodes", self.nodes, rule, remedy)

    @property
    def world_size(self) -> int:
        """Number of processes: what torchrun or SLURM says, else devices * nodes."""
        slurm = ["SLURM_NTASKS"] if "SLURM_PROCID" in os.environ else []
        return number_from_environment("WORLD_SIZE", *slurm) or self.devices * self.nodes

    @property
    def processes_per_node(self) -> int:
        """What torchrun or SLURM says, else ``devices``."""
        slurm = ["SLURM_NTASKS_PER_NODE"] if "SLURM_PROCID" in os.environ else []
        return number_from_environment("LOCAL_WORLD_SIZE", *slurm) or self.devices
