"""Counts of incomplete answers: what is empty, and from which share a score is marked, withheld."""

import pytest

from mobilellama.pretrain.evaluation.answer_counts import AnswerCounts, says_nothing


@pytest.mark.parametrize(
    ("text", "nothing"),
    [
        ("", True),
        (" \t\n", True),
        ("\u200b\u00a0", True),  # a space of no width, and one that does not break
        ("</s>", True),
        (" </ s>\n", True),
        ("</s></s>", False),
        (".", False),
        ("é", False),
    ],
)
def test_only_an_answer_with_a_sign_that_is_seen_says_something(text: str, nothing: bool) -> None:
    assert says_nothing(text) is nothing


@pytest.mark.parametrize(
    ("empty", "marked", "withheld"),
    [(0, False, False), (1, False, False), (2, True, False), (10, True, False), (11, True, True)],
)
def test_over_one_percent_marks_a_score_and_over_ten_withhold_it(
    empty: int, marked: bool, withheld: bool
) -> None:
    counts = AnswerCounts(asked=100, bad={"empty": empty, "cut_off": 0})
    assert (counts.marked, counts.withheld) == (marked, withheld)


def test_kinds_add_up_and_what_nothing_tells_counts_as_none() -> None:
    counts = AnswerCounts(asked=2_000, bad={"empty": 1_100, "cut_off": 3, "missing": None})
    assert counts.total == 1_103 and counts.share == 0.5515
    assert str(counts) == (
        "1,103 of 2,000 answers are incomplete, 55.15 % (1,100 empty, 3 cut off)"
    )
    assert str(AnswerCounts(asked=5, bad={"empty": 0})) == "0 of 5 answers are incomplete, 0.00 %"


def test_where_nothing_was_asked_nothing_is_incomplete() -> None:
    counts = AnswerCounts(asked=0, bad={"empty": 0})
    assert counts.share == 0.0 and not counts.marked


def test_counts_are_read_as_they_were_written_and_a_former_file_has_none() -> None:
    counts = AnswerCounts(asked=7, bad={"empty": 2, "missing": None})
    assert counts.to_json() == {"asked": 7, "empty": 2, "missing": None}
    assert AnswerCounts.of_json(counts.to_json()) == counts
    assert AnswerCounts.of_json(None) is None and AnswerCounts.of_json({}) is None
