"""The paths of values and the counts of files that benchmarks/house_style.py shows are today's."""

from pathlib import Path

import pytest

from benchmarks.house_paths import (
    LEARNING_RATE,
    SEQ_LEN,
    StalePathError,
    Waypoint,
    files_touched,
    path_text,
)

ROOT = Path(__file__).parents[1]


def test_a_value_goes_through_few_hands_and_keeps_its_name() -> None:
    assert path_text(ROOT, LEARNING_RATE) == "2 / 0"
    assert path_text(ROOT, SEQ_LEN) == "5 / 0"


@pytest.mark.parametrize("waypoints", [LEARNING_RATE, SEQ_LEN])
def test_a_value_passes_through_at_most_four_files_from_its_config_to_its_use(
    waypoints: tuple[Waypoint, ...],
) -> None:
    config, *others = [waypoint.file for waypoint in waypoints]
    assert len({*others} - {config}) <= 4


def test_a_new_name_on_the_way_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("seq_len: int\nlength = seq_len\nuse(length)\n")
    names = [("seq_len: int", "seq_len"), ("length = seq_len", "length"), ("use(length", "length")]
    assert path_text(tmp_path, tuple(Waypoint("a.py", *name) for name in names)) == "2 / 1"


def test_a_path_that_the_code_has_left_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("seq_length: int\n")
    with pytest.raises(StalePathError, match=r"a\.py lacks 'seq_len: int': follow"):
        path_text(tmp_path, (Waypoint("a.py", "seq_len: int", "seq_len"),))


def test_the_files_of_a_change_are_those_of_the_page(tmp_path: Path) -> None:
    assert files_touched(ROOT) == "2 / 1 / 3 / 6"
    (tmp_path / "docs").mkdir()
    lines = ["| a schedule | 2 | 2 | 5, now 3 | none |", "| a logger | 1 | 1 | 1 | none |"]
    page = tmp_path / "docs/changing.md"
    page.write_text("\n".join(lines))
    with pytest.raises(StalePathError, match="no count of files for 'an optimizer'"):
        files_touched(tmp_path)
    page.write_text(
        "\n".join([*lines, "| an optimizer | 1 | 2 | 4 |", "| a projector | 1 | 2 | 9 |"])
    )
    assert files_touched(tmp_path) == "3 / 1 / 4 / 9"
