"""Reasons for which records are dropped and conversations changed, and their tally."""

import pytest

from mobilellama.sft.data.reasons import MEANING, Drop, Fix, ReasonTally


def test_every_reason_has_a_meaning_and_a_column() -> None:
    assert {*MEANING} == {*Drop, *Fix}
    assert ReasonTally().columns() == {reason.value: 0 for reason in (*Drop, *Fix)}


def test_a_tally_keeps_the_first_five_places_of_each_reason() -> None:
    tally = ReasonTally(records=8)
    for i in range(7):
        tally.add(Drop.EMPTY_ANSWER, f"f:{i}", "turn 1 of 2")
    tally.add(Fix.SPLIT, "f:9")
    assert tally.dropped == 7
    assert tally.columns()["dropped_empty_answer"] == 7
    assert [place for place, _, _ in tally.examples] == ["f:0", "f:1", "f:2", "f:3", "f:4", "f:9"]
    assert tally.first_places().startswith("f:0 has an empty answer: turn 1 of 2; f:1 has")


@pytest.mark.parametrize(
    ("dropped", "records", "share", "too_many"),
    [(10, 10, 0.1, False), (11, 100, 0.1, True), (11, 110, 0.1, False), (12, 110, 0.1, True),
     (11, 10_000, 0.0, True), (10, 10_000, 0.0, False)],
)  # fmt: skip
def test_too_many_is_more_than_the_share_and_more_than_ten(
    dropped: int, records: int, share: float, too_many: bool
) -> None:
    tally = ReasonTally(records=records)
    for i in range(dropped):
        tally.add(Drop.NOT_JSON, f"f:{i}")
    assert tally.too_many(share) == too_many


def test_names_of_unread_fields_are_counted_up_to_a_limit() -> None:
    tally = ReasonTally()
    for i in range(300):
        tally.add_unread([f"n{i}", "mood"])
    assert len(tally.unread) == 201
    assert (tally.unread["mood"], tally.unread["(other names)"]) == (300, 101)
