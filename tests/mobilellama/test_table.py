"""Tables as text: every column as wide as its widest cell."""

import pytest

from mobilellama.table import aligned, below_remarks, counted, narrowed


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


def test_a_narrow_table_leaves_out_what_it_can_spare_and_wraps_its_widest_column() -> None:
    rows = [("run", "nodes", "why"), ("a", "n1,n2", "the disk of the node is full")]
    assert narrowed(rows, None, spare=["nodes"]) == [list(row) for row in rows]
    assert narrowed(rows, 40, spare=["nodes"]) == [list(row) for row in rows]
    assert narrowed(rows, 34, spare=["none", "nodes"]) == [["run", "why"], ["a", rows[1][2]]]
    assert aligned(narrowed(rows, 20, spare=["nodes"]), left=(0, 1)).splitlines() == [
        "run  why",
        "a    the disk of the",
        "     node is full",
    ]


def test_counts_and_what_stands_below_their_remarks_are_aligned() -> None:
    lines = [counted("records read", 1_234, "in 2 sources"), below_remarks("a.json[3]")]
    assert lines == [
        "records read                  1,234  in 2 sources",
        "                                     a.json[3]",
    ]
    assert counted("images", 0) == "images                            0"
