import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilellama.shards.info import summarise
from mobilellama.shards.lengths import count_lengths
from mobilellama.shards.plot import draw
from tests.shards.conftest import Cli, MakeDataset


def test_the_picture_is_a_png_with_something_on_it(
    small_dataset: Path, tmp_path: Path, cli: Cli
) -> None:
    path = tmp_path / "dataset.png"
    code, out, _ = cli("shards", "plot", small_dataset, "--output", path)
    assert (code, out) == (0, f"wrote {path}\n")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert 1200 < picture.width < 2400 and 400 < picture.height < 2000
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 50
    assert list(tmp_path.iterdir()) == [path]


def test_a_dataset_too_small_for_one_sample_is_still_drawn(
    make_dataset: MakeDataset, tmp_path: Path, cli: Cli
) -> None:
    dataset = make_dataset({"a": [[5, 9]], "empty": [[]]})
    path = tmp_path / "small.png"
    assert cli("shards", "plot", dataset.folder, "--output", path)[0] == 0
    assert path.stat().st_size > 1000


def test_one_document_is_one_and_no_bar_touches_the_ends(make_dataset: MakeDataset) -> None:
    dataset = make_dataset({"a": [[12]]})
    summary = summarise(dataset, seq_len=2048, mixture=None, budget_tokens=None)
    figure = draw(summary, count_lengths(dataset))
    title = figure.get_suptitle()
    assert title.startswith("made: 1 document, 12 tokens; ")
    (left,), (right,) = (panel.axes for panel in figure.subfigs)
    least, most = left.get_xlim()
    assert least < 11 and most > 2048
    assert right.get_title(loc="left").endswith("enough for a sample of seq_len 2,048")
    assert [text.get_text() for text in right.texts] == [" 100.0 %", " "]


def test_drawing_leaves_the_process_s_backend_alone(small_dataset: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from mobilellama.shards.main import main; "
        f"assert main(['plot', {str(small_dataset)!r}, "
        f"'--output', {str(tmp_path / 'p.png')!r}]) == 0; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("picture.jpg", "output = picture.jpg: must end in .png. Name a .png file."),
        ("no/such/p.png", "output = no/such/p.png: lies in a folder that does not exist."),
    ],
)
def test_bad_settings_are_one_message_and_exit_code_2(
    small_dataset: Path, cli: Cli, output: str, message: str
) -> None:
    code, out, err = cli("shards", "plot", small_dataset, "--output", output)
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err


@pytest.mark.parametrize("lengths", [[14, 16, 19], [300, 500, 900], [2, 50, 9000]])
def test_no_two_labels_of_the_axis_overlap(make_dataset: MakeDataset, lengths: list[int]) -> None:
    dataset = make_dataset({"a": [lengths]})
    summary = summarise(dataset, seq_len=lengths[1], mixture=None, budget_tokens=None)
    figure = draw(summary, count_lengths(dataset))
    figure.draw_without_rendering()
    axis = figure.subfigs[0].axes[-1]
    drawn = [label for label in axis.get_xticklabels(which="both") if label.get_text()]
    boxes = sorted((label.get_window_extent() for label in drawn), key=lambda box: box.x0)
    assert len(boxes) >= 3
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_a_budget_that_repeats_a_subset_very_often_is_told(
    make_dataset: MakeDataset, tmp_path: Path, cli: Cli
) -> None:
    dataset = make_dataset({"a": [[40, 40]]})
    fields = ["--path", dataset.folder, "--seq_len", 8, "--budget_tokens", 1e9]
    _, _, err = cli("shards", "plot", *fields, "--output", tmp_path / "a.png")
    assert "1,000,000,000 tokens of this mixture repeat a " in err and "smaller budget" in err
    assert "note: 1,000,000,000 tokens of this mixture repeat" in cli("shards", "info", *fields)[1]
