import re
from itertools import pairwise

import numpy as np
import pytest

from mobilellama.picture import colour
from mobilellama.shards.lengths import COARSE_EDGES, Lengths
from mobilellama.shards.report.pictures import bar_rows, length_pictures


def counted(*lengths: int) -> Lengths:
    made = Lengths.none()
    made.add(np.array(lengths))
    return made


def test_bars_are_as_long_as_their_values_say_and_have_their_subset_s_colour() -> None:
    made = bar_rows(["a", "b <"], [[(2, "two"), (4, "four")], [(1, "one"), (0, "-")]])
    widths = re.findall(r'<rect width="([\d.]+)%"', made)
    assert [float(width) for width in widths] == [50, 100, 25, 0]
    assert re.findall(r'fill="(#\w+)"', made) == [colour(0), colour(1)]
    assert made.count('class="recipe"') == 2
    assert "b &lt;" in made and 'aria-label="b &lt;: one, -"' in made


def test_no_bar_is_wider_than_its_picture_where_all_values_are_0() -> None:
    assert re.findall(r'<rect width="([\d.]+)%"', bar_rows(["a"], [[(0, "none")]])) == ["0.000"]


def steps_of(made: str) -> list[list[float]]:
    """Return the heights of each outline's bins, from 0 to 1."""
    paths = re.findall(r'd="M0 1((?:V[\d.]+H\d+)+)V1Z"', made)
    return [[(1 - float(v)) / 0.96 for v in re.findall(r"V([\d.]+)H", path)] for path in paths]


def test_outlines_are_the_shares_of_documents_and_of_tokens() -> None:
    lengths = [20] * 8 + [300] * 2 + [9000]
    made = length_pictures({"a": counted(*lengths)})
    documents, tokens = steps_of(made)
    (width,) = {int(value) for value in re.findall(r'viewBox="0 0 (\d+) 1"', made)}
    assert len(documents) == len(tokens) == width
    first = int(np.floor(4 * np.log2(20)))
    expected = np.histogram(lengths, COARSE_EDGES)[0][first : first + width]
    np.testing.assert_allclose(documents, expected / expected.max(), atol=1e-3)
    by_tokens = np.histogram(lengths, COARSE_EDGES, weights=lengths)[0][first : first + width]
    np.testing.assert_allclose(tokens, by_tokens / by_tokens.max(), atol=1e-3)


@pytest.mark.parametrize("lengths", [[1], [1, 2], [700], [3, 2**31 - 1], [2**31 - 1], [80, 90]])
def test_labels_of_the_axis_lie_inside_rise_and_do_not_meet(lengths: list[int]) -> None:
    made = length_pictures({"a": counted(*lengths), "none": counted()})
    labels = re.findall(r'<text x="([\d.]+)%" y="\d+" text-anchor="(\w+)">([^<]+)<', made)
    of_one = labels[: len(labels) // 2]
    assert 2 <= len(of_one) <= 8 and of_one == labels[len(of_one) :]
    places = [float(x) for x, _, _ in of_one]
    assert 0 <= places[0] and places[-1] <= 100
    assert all(right - left > 8 for left, right in pairwise(places))
    assert len(steps_of(made)[0]) >= 12  # a single length is a bar, and not a block
    assert max(map(max, steps_of(made)[:2])) == pytest.approx(1, abs=1e-3)


def test_no_document_is_said() -> None:
    assert "There are no documents." in length_pictures({"a": counted()})
