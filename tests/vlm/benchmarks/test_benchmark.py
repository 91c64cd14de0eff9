"""What the benchmarks share: counting, and reading their files."""

from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.vlm.benchmarks.benchmark import (
    accuracy_by,
    field,
    find_files,
    percent,
    read_llava_questions,
    require_own_image,
)


def test_the_share_of_nothing_is_none() -> None:
    assert (percent(1, 4), percent(0, 4), percent(0, 0)) == (25.0, 0.0, None)


def test_each_group_has_its_questions_and_its_share_of_their_worth() -> None:
    assert accuracy_by(["b", "a", "b", "b"], [1, 0.3, 0, 0.5]) == {
        "a": {"questions": 1, "accuracy": pytest.approx(30)},
        "b": {"questions": 3, "accuracy": 50.0},
    }


def test_a_file_is_taken_from_the_first_place_and_all_that_miss_are_named(tmp_path: Path) -> None:
    (tmp_path / "new.json").touch()
    files = {"questions": ("old.json", "new.json")}
    assert find_files(tmp_path, files) == {"questions": tmp_path / "new.json"}
    (tmp_path / "old.json").touch()
    assert find_files(tmp_path, files) == {"questions": tmp_path / "old.json"}
    with pytest.raises(ConfigError, match=r"has no a or b, no c\. See"):
        find_files(tmp_path, files | {"x": ("a", "b"), "y": ("c",)})


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({}, "is missing"),
        ({"n": True}, "is a bool"),
        ({"n": 1.0}, "is a float"),
        ({"n": None}, "is a NoneType"),
    ],
)
def test_a_field_of_another_kind_is_named_with_its_place(row: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError) as error:
        field("f:3", row, "n", (str, int))
    assert str(error.value) == f"f:3: the field 'n' {what}; it must be of type str or int"


def test_llavas_questions_are_read_by_line_with_their_ids_as_written(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(
        '{"question_id": "a/1", "image": "1.jpg", "text": "Is it?"}\n'
        '{"question_id": 2, "image": "2.jpg", "text": "Or?", "category": 7}\n'
    )
    first, second = read_llava_questions(path)
    assert (first.place, first.id, first.image, first.text, first.category) == (
        f"{path}:1", "a/1", "1.jpg", "Is it?", None)  # fmt: skip
    assert (second.id, second.category) == (2, "7")
    asked = second.with_key(tmp_path / "images", "yes")
    assert (asked.id, asked.key, asked.prompt) == (2, "yes", "Or?")
    assert asked.images == (tmp_path / "images/2.jpg",) and asked.text.count("<image>") == 1
    path.write_text("")
    with pytest.raises(DataError, match="is empty; download it again"):
        read_llava_questions(path)


def test_an_image_belongs_to_a_question_by_its_folders_and_its_name() -> None:
    require_own_image("f:1", "val/count/12.v2.jpg", "count", "12")
    with pytest.raises(
        DataError, match=r"^f:1: the image val/count/12\.jpg is not the question's, .* 13;"
    ):
        require_own_image("f:1", "val/count/12.jpg", "count", "13")
