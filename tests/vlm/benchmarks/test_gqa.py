"""GQA: the questions as published, and equality with the right answer."""

import json
from pathlib import Path

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.vlm.benchmarks.benchmark import Asked
from mobilellama.vlm.benchmarks.gqa import (
    Key,
    questions,
    score,
    submission,
    without_dots_in_lower_case,
)
from tests.vlm.helpers.benchmark_files import SHORT, write_gqa, write_lines


def asked(answer: str, structural: str = "query", semantic: str = "attr") -> Asked[Key]:
    key = Key(answer=answer, structural=structural, semantic=semantic)
    return Asked(id="1", images=(), text="", prompt="", key=key)


def test_a_question_is_asked_as_published_with_its_image_before_it(tmp_path: Path) -> None:
    write_gqa(tmp_path)
    first, second, *_ = questions(tmp_path)
    assert first.text == f"<image>\nIs it overcast?{SHORT}"
    assert first.prompt == f"Is it overcast?{SHORT}"
    assert first.images == (tmp_path / "gqa/data/images/n1.jpg",)
    assert first.key == Key(answer="no", structural="verify", semantic="global")
    assert (second.id, second.key.answer) == ("21", "left")


@pytest.mark.parametrize("folder", ["gqa", "gqa/data"])
def test_the_layouts_of_llava_and_of_mobilevlm_are_both_read(tmp_path: Path, folder: str) -> None:
    write_gqa(tmp_path, folder=folder)
    assert [one.images[0] for one in questions(tmp_path)][:1] == [
        tmp_path / folder / "images/n1.jpg"
    ]


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("No", "no", True),
        ("No.", "no", True),
        ("no...", "no", True),
        ("no. ", "no", False),
        ("left,", "left", False),
        ("tshirt", "t-shirt", False),
        ("the left", "left", False),
        (".", "no", False),
        ("", "no", False),
        ("no", "No", False),  # the right answers are taken as they are
    ],
)
def test_an_answer_equals_the_right_one_but_for_dots_at_its_end_and_case(
    text: str, gold: str, right: bool
) -> None:
    assert (without_dots_in_lower_case(text) == gold) is right
    assert score([asked(gold)], [text]).score == (100.0 if right else 0.0)


def test_accuracy_is_over_all_questions_and_by_their_kinds(tmp_path: Path) -> None:
    write_gqa(tmp_path)
    scores = score(questions(tmp_path), ["No.", "right", "White", None])
    assert scores.score == 50.0
    assert (scores.questions, scores.unanswered) == (4, 1)
    assert scores.tables["by form"] == {
        "binary": {"questions": 2, "accuracy": 50.0},
        "open": {"questions": 2, "accuracy": 50.0},
    }
    assert scores.tables["by subject"]["attr"] == {"questions": 2, "accuracy": 50.0}
    assert scores.tables["by structure"]["query"] == {"questions": 2, "accuracy": 50.0}


def test_nothing_asked_gives_no_score() -> None:
    assert score([], []).score is None


def test_the_submission_is_what_the_official_script_reads(tmp_path: Path) -> None:
    write_gqa(tmp_path)
    files = submission(questions(tmp_path), ["No.", "Right..", "white", None])
    assert json.loads(files["testdev_balanced_predictions.json"]) == [
        {"questionId": "20", "prediction": "no"},
        {"questionId": "21", "prediction": "right"},
        {"questionId": "22", "prediction": "white"},
        {"questionId": "23", "prediction": ""},
    ]


def test_every_missing_file_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        questions(tmp_path)
    message = str(caught.value)
    for name in (
        "gqa/llava_gqa_testdev_balanced.jsonl",
        "gqa/testdev_balanced_questions.json or gqa/data/testdev_balanced_questions.json",
        "gqa/images or gqa/data/images",
    ):
        assert f"no {name}" in message


def test_a_question_without_an_answer_is_named(tmp_path: Path) -> None:
    write_gqa(tmp_path)
    path = tmp_path / "gqa/llava_gqa_testdev_balanced.jsonl"
    write_lines(path, [{"question_id": "7", "image": "n1.jpg", "text": "?"}])
    with pytest.raises(DataError, match=r"jsonl:1: the question 7 is not in .*questions.json"):
        questions(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.jpg", "text": "?"}, "the field 'question_id' is missing"),
        ({"question_id": "7", "image": ["a.jpg"], "text": "?"}, "the field 'image' is a list"),
        ({"question_id": "7", "image": "a.jpg", "text": None}, "the field 'text' is a NoneType"),
    ],
)
def test_a_broken_line_is_named_with_its_field(tmp_path: Path, row: dict, message: str) -> None:
    write_gqa(tmp_path)
    write_lines(tmp_path / "gqa/llava_gqa_testdev_balanced.jsonl", [row])
    with pytest.raises(DataError, match=f"balanced.jsonl:1: {message}"):
        questions(tmp_path)


def test_an_empty_question_file_is_refused(tmp_path: Path) -> None:
    write_gqa(tmp_path)
    write_lines(tmp_path / "gqa/llava_gqa_testdev_balanced.jsonl", [])
    with pytest.raises(DataError, match="is empty"):
        questions(tmp_path)


def test_another_order_gives_the_same_score_and_ids_may_be_numbers(tmp_path: Path) -> None:
    write_gqa(tmp_path)
    path = tmp_path / "gqa/llava_gqa_testdev_balanced.jsonl"
    said = {"20": "No.", "21": "right", "22": "White", "23": "tall"}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [row | {"question_id": int(row["question_id"])} for row in rows[::-1]])
    found = questions(tmp_path)
    assert [one.id for one in found] == [23, 22, 21, 20]
    assert score(found, [said[str(one.id)] for one in found]).score == 75.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"question": "Is it dark?"},
            r"jsonl:1: the question 20 is 'Is it dark\?' in .*, but 'Is it",
        ),
        (
            {"imageId": "n7"},
            r"jsonl:1: the question 20 is about the image n7 in .* about n1.jpg here",
        ),
    ],
)
def test_the_answers_of_another_edition_under_the_same_ids_are_refused(
    tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    write_gqa(tmp_path)
    path = tmp_path / "gqa/data/testdev_balanced_questions.json"
    known = json.loads(path.read_text())
    known["20"] |= changed
    path.write_text(json.dumps(known))
    with pytest.raises(DataError, match=f"{message}.*; take the files of one edition"):
        questions(tmp_path)


def test_a_question_that_stands_twice_is_named(tmp_path: Path) -> None:
    write_gqa(tmp_path)
    path = tmp_path / "gqa/llava_gqa_testdev_balanced.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[1])
    with pytest.raises(DataError, match=r"jsonl:5: asks the question 21 again, after .*jsonl:2"):
        questions(tmp_path)
