"""The checks and the file that all pictures share; the pictures are tested with their stages."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mobilellama.config import ConfigError
from mobilellama.picture import (
    colour,
    log_ticks,
    new_figure,
    require_png,
    short_count,
    short_tick,
    write_png,
)


def test_only_a_png_in_a_folder_that_exists_can_be_written(tmp_path: Path) -> None:
    require_png("output", str(tmp_path / "a.PNG"))
    with pytest.raises(ConfigError, match=r"output = a.svg: must end in .png. Name a .png file."):
        require_png("output", "a.svg")
    with pytest.raises(ConfigError, match=r"lies in a folder that does not exist. Make the folder"):
        require_png("output", str(tmp_path / "no" / "a.png"))


def test_a_picture_replaces_a_former_one_and_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("old")
    write_png(new_figure(4, 2), str(path))
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("PNG", (600, 300))
    assert list(tmp_path.iterdir()) == [path]


def test_there_is_a_colour_for_any_number_of_subsets() -> None:
    assert len({colour(i) for i in range(7)}) == 7
    assert colour(7) == colour(0)


def test_importing_it_imports_no_matplotlib_and_drawing_no_pyplot() -> None:
    code = (
        "import sys, mobilellama.picture as picture; assert 'matplotlib' not in sys.modules; "
        "picture.new_figure(1, 1); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("least", "most", "labels"),
    [
        (12.8, 20, ["14", "16", "18", "20"]),
        (256, 1024, ["400", "600", "800", "1 k"]),
        (100, 2500, ["100", "200", "500", "1 k", "2 k"]),
        (8, 2.5e6, ["10", "100", "1 k", "10 k", "100 k", "1 M"]),
    ],
)
def test_lengths_are_numbered_round_and_few(least: float, most: float, labels: list[str]) -> None:
    assert [short_tick(tick) for tick in log_ticks(least, most)] == labels


def test_a_count_has_three_digits_and_its_unit() -> None:
    counts = (0, 7, 999, 1000, 3_400_000, 878e9, 1.21e12)
    assert [short_count(count) for count in counts] == [
        "0", "7", "999", "1.00 k", "3.40 M", "878 G", "1.21 T",
    ]  # fmt: skip
