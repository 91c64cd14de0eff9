from typing import Any

import pytest

from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.reasons import Drop, DropError
from mobilellama.sft.data.turns import as_flag, joined, read_turn


def read(turn: Any) -> Turn:
    return read_turn(turn, 0, [])


@pytest.mark.parametrize(
    ("mark", "learnt"),
    [
        *(({name: value}, bool(float(value)))
          for name in ("weight", "loss", "train", "training", "loss_mask", "lossMask",
                       "train_on_turn", "loss_scale", "compute_loss", "learn", "supervised")
          for value in (0, 1, 0.0, 1.0, False, True, "0", "1.0")),
        ({"weight": "false"}, False),
        ({"train": " True "}, True),
        ({"mask": True}, False),
        ({"mask": False}, True),
        ({"masked": 1}, False),
        ({"ignore_loss": True}, False),
        ({"ignore": "false"}, True),
        ({"train_on_turn": False, "weight": 0}, False),
        ({"weight": None}, True),
        ({"weight": ""}, True),
        ({"weight": 0, "train": False, "mask": True}, False),
        ({}, True),
    ],
)  # fmt: skip
def test_a_mark_says_whether_an_answer_is_learnt(mark: dict[str, Any], learnt: bool) -> None:
    answer = read({"role": "assistant", "content": "No.", **mark})
    assert answer == Turn("assistant", "No.", learnt=learnt)


@pytest.mark.parametrize(
    "mark",
    [
        {"weight": 0.5},
        {"weight": 2},
        {"weight": -1},
        {"weight": float("nan")},
        {"weight": 10**400},
        {"weight": "half"},
        {"weight": [0]},
        {"loss": {"a": 1}},
        {"mask": 1},
        {"mask": 0},
        {"weight": 1, "train": False},
        {"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]},
    ],
)
def test_a_mark_that_rows_cannot_hold_drops_the_record(mark: dict[str, Any]) -> None:
    with pytest.raises(DropError) as dropped:
        read({"role": "assistant", "content": "No.", **mark})
    assert dropped.value.reason is Drop.WEIGHT
    assert "turn 0 has " in dropped.value.detail


def test_a_question_is_never_learnt_whatever_its_weight() -> None:
    unread: list[str] = []
    assert read_turn({"from": "human", "value": "x", "weight": 0}, 0, unread) == Turn("user", "x")
    assert unread == []
    assert read_turn({"from": "human", "value": "x", "weight": 1}, 0, unread) == Turn("user", "x")
    assert unread == ["turn.weight (of a user)"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"reasoning_content": "Well..."}, Drop.REASONING),
        ({"thinking": "Well..."}, Drop.REASONING),
        ({"reasoningDetails": [{"text": "Well..."}]}, Drop.REASONING),
        ({"tool_calls": [{"id": 1}]}, Drop.TOOL_CALL),
        ({"functionCall": {"name": "f"}}, Drop.TOOL_CALL),
        ({"images": ["a.png"]}, Drop.MEDIA),
        ({"audio": {"id": "x"}}, Drop.MEDIA),
        ({"video_url": "x.mp4"}, Drop.MEDIA),
        ({"file": "x.pdf"}, Drop.MEDIA),
        ({"label": False}, Drop.PREFERENCE),
        ({"rejected": "Other."}, Drop.PREFERENCE),
        ({"accepted": "Other."}, Drop.PREFERENCE),
        ({"recipient": "browser"}, Drop.TOOL_CALL),
        ({"channel": "analysis"}, Drop.REASONING),
        ({"loss_masks": [0, 1]}, Drop.WEIGHT),
        ({"value": "Other."}, Drop.AMBIGUOUS),
        ({"text": "Other."}, Drop.AMBIGUOUS),
        ({"refusal": "I will not."}, Drop.AMBIGUOUS),
        ({"from": "human"}, Drop.AMBIGUOUS),
        ({"content": [{"type": "text", "text": "Yes."}, {"type": "audio", "audio": "x"}]},
         Drop.NOT_TEXT),
        ({"content": [{"type": "text", "text": "Yes.", "image_url": "x"}]}, Drop.MEDIA),
        ({"content": [{"type": "text", "text": "Yes.", "weight": 0}]}, Drop.WEIGHT),
    ],
)  # fmt: skip
def test_a_field_that_changes_what_a_turn_means_drops_the_record(
    fields: dict[str, Any], reason: Drop
) -> None:
    turn = {"role": "assistant", "content": "Yes."} | fields
    with pytest.raises(DropError) as dropped:
        read(turn)
    assert dropped.value.reason is reason
    nothing = {name: None for name in fields if name != "content"}
    assert read({"role": "assistant", "content": "Yes.", **nothing}) == Turn("assistant", "Yes.")


@pytest.mark.parametrize("nothing", [None, "", " ", [], {}, [None], {"a": None}, False])
@pytest.mark.parametrize(
    "name", ["tool_calls", "reasoning_content", "images", "audio", "functions"]
)
def test_a_field_that_says_nothing_does_not_matter(name: str, nothing: Any) -> None:
    unread: list[str] = []
    turn = read_turn({"role": "assistant", "content": "Yes.", name: nothing}, 0, unread)
    assert (turn, unread) == (Turn("assistant", "Yes."), [])


def test_a_name_that_is_not_known_is_told_and_a_harmless_one_is_not() -> None:
    unread: list[str] = []
    part = {"type": "text", "text": "Yes.", "cache_control": {"type": "x"}, "mood": "merry"}
    turn = {"role": "assistant", "content": [part], "id": 3, "timestamp": 1.5, "Mood": "merry",
            "name": "Ann", "recipient": "all", "channel": "final"}  # fmt: skip
    assert read_turn(turn, 0, unread) == Turn("assistant", "Yes.")
    assert unread == ["turn.mood", "part.mood"]


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        (("How many?", "In one word."), "How many?\nIn one word."),
        (("How many? ", "In one word."), "How many? In one word."),
        (("How many?", "\n\nIn one word."), "How many?\n\nIn one word."),
        (("", "How many?", "", "In one word.", ""), "How many?\nIn one word."),
        (("a", "b", "c"), "a\nb\nc"),
        ((), ""),
    ],
)
def test_parts_of_a_content_are_parted_by_white_space(parts: tuple[str, ...], whole: str) -> None:
    assert joined(parts) == whole
    content = [{"type": "text", "text": part} for part in parts]
    if content:
        assert read({"role": "user", "content": content}) == Turn("user", whole)


def test_a_flag_is_a_truth_value_in_any_spelling_and_nothing_else() -> None:
    assert [as_flag(value) for value in (True, 1, 1.0, "1", "TRUE", "yes")] == [True] * 6
    assert [as_flag(value) for value in (False, 0, 0.0, "0", "false", "No")] == [False] * 6
    assert [as_flag(value) for value in (None, 2, 0.5, "", "x", [], {}, "nan")] == [None] * 8
