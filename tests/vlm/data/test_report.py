"""The report of 'vlm check-data': what is read of it, and its counts."""

from collections import Counter
from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.vlm.data.report import read_leave_out, spread


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (None, "is not a file"),
        ("{", "is not JSON"),
        ("[]", "is not a report of the data"),
        ('{"leave_out": []}', "is not a report of the data"),
        (
            '{"kind": "mobilellama vlm check-data", "format": 9}',
            "is of format 9, but this version reads 1",
        ),
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str | None, rule: str) -> None:
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_leave_out(path)
    assert f"data.leave_out = {path}: {rule}. " in str(error.value)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([5], (5, 5, 5)),
        ([1, 9], (1, 1, 9)),
        ([3, 1, 2], (1, 2, 3)),
        ([7, 7, 7, 1, 9], (1, 7, 9)),
        ([1, 2, 3, 4], (1, 2, 4)),
    ],
)
def test_the_median_of_counted_values_is_the_lower_one(
    values: list[int], found: tuple[int, int, int]
) -> None:
    low, median, high = found
    assert spread(Counter(values)) == {"min": low, "median": median, "max": high}
