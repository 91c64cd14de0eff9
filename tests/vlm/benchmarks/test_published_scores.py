"""The published table agrees with itself: its averages are those of the README's formula."""

import pytest

from mobilellama.vlm.benchmarks.all import BENCHMARKS
from mobilellama.vlm.benchmarks.published_scores import AVERAGED, PUBLISHED, average


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_printed_averages_come_out_of_the_formula(model: str) -> None:
    """V2 7B comes to 72.04, and 72.1 is printed: hence 0.07."""
    published = PUBLISHED[model]
    ours = average(published.scores)
    assert ours is not None
    assert published.average is None or abs(ours - published.average) < 0.07


def test_the_average_takes_mme_by_twenty() -> None:
    """(56.1 + 57.3 + 41.5 + 84.5 + 59.81 + 53.2) / 6 = 352.41 / 6."""
    assert average(PUBLISHED["MobileVLM 1.7B"].scores) == pytest.approx(352.41 / 6)


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_scores_are_of_known_benchmarks(model: str) -> None:
    assert PUBLISHED[model].scores.keys() <= BENCHMARKS.keys()


def test_a_benchmark_beside_the_six_does_not_change_the_average() -> None:
    """Five of 50 %, and 50 of 2000 points: (250 + 2.5) / 6."""
    six: dict[str, float] = dict.fromkeys(AVERAGED, 50.0)
    assert average(six | {"another": 99.0}) == average(six) == pytest.approx(252.5 / 6)


@pytest.mark.parametrize("name", AVERAGED)
def test_there_is_no_average_without_all_six(name: str) -> None:
    scores: dict[str, float | None] = dict.fromkeys(AVERAGED, 50.0)
    assert average(scores | {name: None}) is None
    del scores[name]
    assert average(scores) is None
