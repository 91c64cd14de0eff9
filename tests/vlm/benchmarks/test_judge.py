"""Scores that are marked and withheld, by the share of answers that are incomplete."""

import pytest

from mobilellama.vlm.benchmarks.benchmark import Scores
from mobilellama.vlm.benchmarks.judge import count_replies, judge
from mobilellama.vlm.chat.question import Reply

SCORES = Scores(
    score=66.6, metric="F1", questions=1000, unanswered=0, tables={"by kind": {"a": {"F1": 66.6}}}
)


def said(text: str, finish: str | None = "stop") -> Reply:
    return Reply(text=text, finish=finish)


def test_every_answer_that_is_none_is_of_one_kind() -> None:
    replies = [
        said("yes"), None, said(""), said(" \n"), said("", "length"), said("", "too_long"),
        said("and so on", "length"), said("no"),
    ]  # fmt: skip
    counts = count_replies(replies)
    assert counts.to_json() == {
        "asked": 8, "missing": 1, "without_room": 1, "empty": 3, "cut_off": 1,
    }  # fmt: skip
    assert counts.total == 6
    assert str(counts) == (
        "6 of 8 answers are incomplete, 75.00 % (1 missing, 1 without room, 3 empty, 1 cut off)"
    )


def test_where_nothing_tells_of_cut_answers_there_is_no_number() -> None:
    assert count_replies([said("a", None), said("", None)]).bad["cut_off"] is None
    assert count_replies([said("a", None), said("b", "length")]).bad["cut_off"] == 1
    assert count_replies([]).share == 0.0


@pytest.mark.parametrize(
    ("empty", "marked", "withheld"),
    [
        (0, False, False),
        (10, False, False),
        (11, True, False),
        (100, True, False),
        (101, True, True),
    ],
)
def test_over_one_per_cent_marks_a_score_and_over_ten_withholds_it(
    empty: int, marked: bool, withheld: bool
) -> None:
    counts = count_replies([said("")] * empty + [said("yes")] * (1000 - empty))
    found = judge(SCORES, counts, show_withheld=False)
    assert (found.incomplete is not None, found.withheld) == (marked, withheld)
    assert found.score == (None if withheld else 66.6)
    assert found.tables == ({} if withheld else SCORES.tables)
    assert found.answers == counts.to_json()
    shown = judge(SCORES, counts, show_withheld=True)
    assert (shown.score, shown.tables, shown.withheld) == (66.6, SCORES.tables, False)
    assert (shown.incomplete is not None) == marked


@pytest.mark.parametrize("text", ["\u200b", "\ufeff\u00a0", "</s>", " </s>\n", "\x00"])
def test_what_cannot_be_seen_and_a_spelt_out_end_token_are_empty(text: str) -> None:
    assert count_replies([said(text)]).bad["empty"] == 1


@pytest.mark.parametrize("text", ["?", "$", "0", "not</s>", "</s>no", "はい", "\U0001f600"])
def test_whatever_can_be_seen_is_an_answer(text: str) -> None:
    assert count_replies([said(text)]).total == 0
