"""Work that the watchdog watches, on ranks that the caller starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mobilellama.distributed import World
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain.monitoring.config import WatchdogConfig
from mobilellama.pretrain.monitoring.watchdog import Watchdog
from mobilellama.run_folder import RunFolder

TWO_SECONDS = 2 / 60


def watched(
    folder: Path, work: Callable[[World, Watchdog, Path], Any], fields: dict[str, float]
) -> Any:
    world = World(DistributedConfig(accelerator="cpu", threads=1))
    config = WatchdogConfig(**fields)
    with Watchdog(config, run=RunFolder(folder), world=world, attempt=3, step=7) as watchdog:
        return work(world, watchdog, folder)
