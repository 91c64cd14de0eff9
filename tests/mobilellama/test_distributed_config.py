"""The section distributed: where processes are, and what the launcher says of them."""

import os

import pytest

from mobilellama.config import ConfigError
from mobilellama.distributed_config import DistributedConfig


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"devices": 0}, "distributed.devices = 0: must be at least 1"),
        ({"nodes": 0}, "distributed.nodes = 0: must be at least 1"),
        ({"threads": 0}, "distributed.threads = 0: must be at least 1"),
        ({"threads": 10**6}, f"distributed.threads = 1000000: exceeds the {os.cpu_count()} cores"),
        ({"devices": 10**6}, "distributed.devices = 1000000: is more processes than any node runs"),
        ({"nodes": 2}, "distributed.nodes = 2: needs a launcher that starts the other nodes'"),
    ],
)
def test_what_no_machine_can_run_is_refused_by_name(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DistributedConfig(**fields)  # pyright: ignore[reportArgumentType]
    assert str(caught.value).startswith(message)


def test_without_a_launcher_the_fields_say_how_many_processes_there_are() -> None:
    config = DistributedConfig(devices=3)
    assert (config.world_size, config.processes_per_node) == (3, 3)


def test_torchruns_numbers_count_more_than_the_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    config = DistributedConfig(devices=3, nodes=2)
    assert (config.world_size, config.processes_per_node) == (16, 8)


def test_slurms_numbers_count_in_a_step_of_srun_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "12")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    assert DistributedConfig().world_size == 1  # a batch script has them too
    monkeypatch.setenv("SLURM_PROCID", "5")
    config = DistributedConfig(nodes=3)
    assert (config.world_size, config.processes_per_node) == (12, 4)
    monkeypatch.setenv("SLURM_NTASKS", "many")
    with pytest.raises(ConfigError, match="the environment's SLURM_NTASKS = many: must be a numb"):
        _ = config.world_size
