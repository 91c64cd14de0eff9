import shutil
from pathlib import Path

import pytest

from mobilellama.tokenize.planning.amounts import Amount
from mobilellama.tokenize.planning.outlook import free_bytes, look_ahead
from mobilellama.tokenize.planning.rates import Rates

_RATES = Rates(text=2.0, tokens=0.5, documents=0.001, basis="sample")


def test_tokens_disk_and_hours_are_those_of_the_rates(tmp_path: Path) -> None:
    """1 GB of files: 2 GB of text is 20 core seconds at 100 MB/s; 0.5 G tokens of 2 bytes."""
    amount = Amount(sources=2, slices=8, size=10**9, largest=2 * 10**8)
    outlook = look_ahead(
        {"c4": amount},
        {"c4": _RATES},
        token_bytes=2,
        workers=2,
        task_count=3,
        mb_per_s=100,
        output=str(tmp_path / "not/yet"),
    )
    assert outlook.tokens == 5 * 10**8
    assert outlook.disk_bytes == 10**9 + 20 * 10**6
    assert outlook.peak_bytes == 6 * 2 * 10**8
    assert outlook.needed_bytes == outlook.disk_bytes + outlook.peak_bytes
    assert outlook.core_hours == pytest.approx(20 / 3600)
    assert outlook.hours == pytest.approx(20 / 6 / 3600)
    assert outlook.read_bytes_per_s == pytest.approx(10**9 / (20 / 6))
    assert outlook.subsets["c4"].bytes_per_token == 4


def test_workers_beyond_the_slices_do_not_help() -> None:
    amount = Amount(sources=1, slices=3, size=10**9, largest=10**9)
    few, many = (
        look_ahead(
            {"c4": amount},
            {"c4": _RATES},
            token_bytes=4,
            workers=workers,
            task_count=1,
            mb_per_s=10,
            output=None,
        )
        for workers in (3, 300)
    )
    assert few.hours == many.hours and few.peak_bytes == many.peak_bytes
    assert few.free_bytes is None


def test_room_is_that_of_the_folder_above_a_missing_output(tmp_path: Path) -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("no second file system")
    other = shutil.disk_usage("/dev/shm").total
    assert free_bytes("/dev/shm/no/such/folder") <= other
    assert free_bytes(str(tmp_path / "a/b")) <= shutil.disk_usage(tmp_path).total
