"""The machine's fields are checked, and come out in bytes and seconds."""

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.planning.machine import MachineConfig


def test_the_machine_has_the_units_of_its_names() -> None:
    config = MachineConfig(gpus=8, gpu="l4", reserve_gib=1, network_gb_per_s=3, disk_gb_per_s=2)
    machine = config.machine
    assert (machine.network_bytes_per_s, machine.disk_bytes_per_s) == (3e9, 2e9)
    assert machine.room_bytes == 24e9 - 2**30


def test_nothing_goes_at_no_speed() -> None:
    with pytest.raises(ConfigError, match=r"network_gb_per_s = 0.0: must be above 0"):
        MachineConfig(gpus=8, gpu="l4", network_gb_per_s=0.0)
    with pytest.raises(ConfigError, match=r"disk_gb_per_s = 0.0: must be above 0"):
        MachineConfig(gpus=8, gpu="l4", disk_gb_per_s=0.0)
