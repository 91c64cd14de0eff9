from typing import Any

import pytest

from mobilellama.sft.data.fields import (
    by_name,
    canonical,
    medium_of,
    same,
    says_nothing,
    unknown_fields,
)
from mobilellama.sft.data.reasons import Drop, DropError


@pytest.mark.parametrize(
    ("name", "spelt"),
    [
        ("toolCalls", "tool_calls"),
        ("Tool Calls", "tool_calls"),
        ("tool-calls", "tool_calls"),
        ("TOOL_CALLS", "tool_calls"),
        ("Complex_CoT", "complex_cot"),
        ("videoURL", "videourl"),
        (" id ", "id"),
        ("__index_level_0__", "index_level_0"),
        ("", ""),
        ("é", "é"),
        ("A" * 101, "A" * 101),
    ],
)
def test_a_name_has_one_spelling(name: str, spelt: str) -> None:
    assert canonical(name) == spelt


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("chosen", "x", Drop.PREFERENCE),
        ("score_chosen", 0.5, Drop.PREFERENCE),
        ("rejected_response", "x", Drop.PREFERENCE),
        ("label", False, Drop.PREFERENCE),
        ("kto_tag", 0, Drop.PREFERENCE),
        ("reasoning_content", "x", Drop.REASONING),
        ("chain_of_thought", "x", Drop.REASONING),
        ("thinking_trace", ["x"], Drop.REASONING),
        ("tools", [{"name": "f"}], Drop.TOOL_CALL),
        ("function_call", "{}x", Drop.TOOL_CALL),
        ("video", "x.mp4", Drop.MEDIA),
        ("image_1", "x.png", Drop.MEDIA),
        ("audio_path", "x.wav", Drop.MEDIA),
        ("videourl", "x.mp4", Drop.MEDIA),
        ("files", ["x"], Drop.MEDIA),
        ("image", True, Drop.MEDIA),
    ],
)
def test_a_name_that_is_known_to_matter_drops_the_record(
    name: str, value: Any, reason: Drop
) -> None:
    with pytest.raises(DropError) as dropped:
        unknown_fields({name: value}, read=(), level="record")
    assert dropped.value.reason is reason
    assert f"it has {name}" in dropped.value.detail
    assert unknown_fields({name: value}, read=(name,), level="record") == []
    assert unknown_fields({name: None}, read=(), level="record") == []


def test_other_names_are_harmless_or_unknown() -> None:
    fields = {"id": 1, "source": "x", "timestamp": 2, "score": 0.5, "image_id": 3, "type": "x",
              "mood": "merry", "imagination": 4, "reasoning": True, "nothing": None}  # fmt: skip
    unknown = unknown_fields(fields, read=(), level="record")
    assert unknown == ["mood", "imagination", "reasoning"]
    assert unknown_fields({"type": "x"}, read=(), level="turn") == ["turn.type"]


@pytest.mark.parametrize("label", [True, False, 0, 1, -1, "bad", "True", " chosen ", [1, 0]])
def test_a_label_that_judges_an_answer_is_a_preference(label: Any) -> None:
    with pytest.raises(DropError) as dropped:
        unknown_fields({"label": label}, read=(), level="record")
    assert dropped.value.reason is Drop.PREFERENCE


def test_masks_are_of_turns_or_of_a_picture() -> None:
    assert unknown_fields({"masks": [[1, 2]]}, read=(), level="record") == ["masks"]
    with pytest.raises(DropError):
        unknown_fields({"masks": [0, 1]}, read=(), level="record")


def test_a_mark_of_acceptance_is_no_second_answer() -> None:
    assert unknown_fields({"accepted": True}, read=(), level="record") == ["accepted"]


@pytest.mark.parametrize("label", ["math", 7, ["algebra"], {"ability_en": ["logic"]}, [[1]]])
def test_a_label_that_names_a_class_is_told_and_drops_nothing(label: Any) -> None:
    assert unknown_fields({"label": label}, read=(), level="record") == ["label"]


def test_a_medium_is_found_by_its_name_as_it_is_written() -> None:
    assert medium_of({"id": 1, "imageUrl": "x.png"}) == "imageUrl"
    assert medium_of({"image": "x.png", "video": "x.mp4"}, read=("image",)) == "video"
    assert medium_of({"image": None, "video": [], "image_id": 3, "audio": False}) is None


def test_two_spellings_of_a_name_must_say_the_same() -> None:
    assert by_name({"Question": "x", "question": None, "question ": "x "}) == {"question": "x"}
    with pytest.raises(DropError) as dropped:
        by_name({"Question": "x", "question": "y"})
    assert dropped.value.reason is Drop.AMBIGUOUS


def test_values_of_any_depth_are_compared_and_judged() -> None:
    deep, other = [], []
    for _ in range(100_000):
        deep, other = [deep], [other]
    assert not says_nothing(deep) and not same(deep, other)
    assert same(" x", "x\n") and not same("x", 1)
    assert says_nothing([None, "", {}]) and says_nothing({"bytes": None, "path": None})
    assert not any(map(says_nothing, (0, False, "x", [0], {"a": 0})))
