"""SLURM's way to write durations."""

import pytest

from mobilellama.launch.time_limit import limit_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90 * 60),
        ("90:30", 90 * 60 + 30),
        ("24:00:00", 24 * 3600),
        ("1:2:3", 1 * 3600 + 2 * 60 + 3),
        ("100:00:00", 100 * 3600),
        ("2-0", 2 * 86_400),
        ("2-12", 2 * 86_400 + 12 * 3600),
        ("2-12:30", 2 * 86_400 + 12 * 3600 + 30 * 60),
        ("2-12:30:15", 2 * 86_400 + 12 * 3600 + 30 * 60 + 15),
        ("", None),
        ("24h", None),
        ("-5", None),
        ("1.5", None),
        ("1:2:3:4", None),
        ("1-", None),
        ("1-2-3", None),
        ("90 ", None),
        ("90\n", None),
        ("UNLIMITED", None),
    ],
)
def test_a_time_limit_has_slurms_forms(text: str, seconds: int | None) -> None:
    assert limit_seconds(text) == seconds
