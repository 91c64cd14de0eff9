"""Tables as text: every column as wide as its widest cell."""

import pytest

from mobilellama.table import aligned, below_remarks, counted


def test_names_stand_to_the_left_and_numbers_to_the_right() -> None:
    rows = [("task", "n", "score"), ("arc", "1,172", "0.5"), ("hellaswag", "10", "")]
    assert aligned(rows).splitlines() == [
        "task           n  score",
        "arc        1,172    0.5",
        "hellaswag     10",
    ]


def test_other_columns_can_stand_to_the_left_too() -> None:
    rows = [("task", "n", "metric"), ("arc", "1,172", "acc"), ("hellaswag", "10", "acc_norm")]
    assert aligned(rows, left=(0, 2)).splitlines() == [
        "task           n  metric",
        "arc        1,172  acc",
        "hellaswag     10  acc_norm",
    ]


def test_a_row_of_fewer_cells_is_a_fault_of_ours() -> None:
    with pytest.raises(ValueError, match="zip"):
        aligned([("a", "b"), ("c",)])


def test_counts_and_what_stands_below_their_remarks_are_aligned() -> None:
    lines = [counted("records read", 1_234, "in 2 sources"), below_remarks("a.json[3]")]
    assert lines == [
        "records read                  1,234  in 2 sources",
        "                                     a.json[3]",
    ]
    assert counted("images", 0) == "images                            0"
