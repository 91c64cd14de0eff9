"""ScienceQA: prompts with and without an image, three readings of an answer, two accuracies."""

import json
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.vlm.benchmarks.scienceqa import letter_of, questions, score
from tests.vlm.helpers.benchmark_files import write_json, write_scienceqa

LETTER = "\nAnswer with the option's letter from the given choices directly."


def test_a_problem_with_an_image_is_asked_with_it_and_logged_with_its_mark(tmp_path: Path) -> None:
    write_scienceqa(tmp_path)
    first, _, third, _ = questions(tmp_path)
    text = "Context: N/A\nQuestion: What is it?\nOptions: (A) cat (B) dog"
    assert first.text == first.prompt == f"<image>\n{text}{LETTER}"
    assert first.images == (tmp_path / "scienceqa/images/test/4/image.png",)
    assert (first.key.right, first.key.choices) == (1, 2)
    assert third.images == ()
    assert third.text == f"Context: N/A\nQuestion: Who is it?\nOptions: (A) he (B) she{LETTER}"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", None),
        ("B.", None),
        ("(B)", None),
        ("F", None),
        ("", None),
        ("ABC", None),
        ("B. because", "B"),
        ("B. ", "B"),
        ("B.\nbecause", None),
        ("F. because", None),
        ("The answer is B.", "B"),
        ("So. The answer is B. Yes", "B"),
        ("The answer is B", None),  # any character must follow
        ("The answer is B\n", None),  # a line break is no character here
        ("The answer is But", "B"),
        ("The answer is F.", "F"),
        ("The answer is A. The answer is B.", None),
        ("The answer is A. The answer is B", "A"),
        ("the answer is B.", None),
        ("dog", None),
    ],
)
def test_an_answer_has_three_readings(text: str, letter: str | None) -> None:
    assert letter_of(text) == letter


def test_accuracy_of_the_image_questions_is_the_score(tmp_path: Path) -> None:
    """Right are B, C, A and E. The second answer is a letter beyond its three options."""
    write_scienceqa(tmp_path)
    scores = score(questions(tmp_path), ["B. dog", "D", "he", "The answer is E."])
    assert scores.score == 50.0
    assert scores.tables["by image"] == {
        "text only": {"questions": 2, "accuracy": 50.0},
        "with image": {"questions": 2, "accuracy": 50.0},
        "all": {"questions": 4, "accuracy": 50.0},
    }
    assert scores.tables["by subject"]["natural science"] == {"questions": 2, "accuracy": 50.0}
    assert scores.tables["by grade"] == {
        "grade2": {"questions": 2, "accuracy": 100.0},
        "grade3": {"questions": 2, "accuracy": 0.0},
    }
    assert scores.notes == ("No option could be read from 1 answers.",)


def test_a_missing_answer_is_wrong_and_counts_as_one_without_image(tmp_path: Path) -> None:
    write_scienceqa(tmp_path)
    scores = score(questions(tmp_path), ["B", None, None, "E"])
    assert scores.score == 100.0
    assert scores.tables["by image"]["text only"] == {
        "questions": 3,
        "accuracy": pytest.approx(100 / 3),
    }
    assert scores.tables["by image"]["all"]["accuracy"] == 50.0
    assert scores.unanswered == 2


def test_without_an_image_question_there_is_no_score(tmp_path: Path) -> None:
    write_scienceqa(tmp_path)
    text_only = questions(tmp_path)[2:]
    scores = score(text_only, ["A", "A"])
    assert scores.score is None
    assert scores.tables["by image"]["all"]["accuracy"] == 50.0
    assert score([], []).score is None


def test_a_question_outside_the_test_split_is_refused(tmp_path: Path) -> None:
    write_scienceqa(tmp_path)
    write_json(tmp_path / "scienceqa/pid_splits.json", {"test": ["4", "5", "11"], "train": []})
    with pytest.raises(DataError, match=r"CQM-A.json\[3\]: the problem 12 is not in the test"):
        questions(tmp_path)


@pytest.mark.parametrize("answer", [2, -1])
def test_a_right_option_that_is_none_is_refused(tmp_path: Path, answer: int) -> None:
    write_scienceqa(tmp_path)
    path = tmp_path / "scienceqa/problems.json"
    problems = json.loads(path.read_text())
    problems["4"]["answer"] = answer
    write_json(path, problems)
    with pytest.raises(
        DataError, match=f"problem 4: the answer {answer} is not one of its 2 choices"
    ):
        questions(tmp_path)


def test_files_that_are_damaged_are_named(tmp_path: Path) -> None:
    write_scienceqa(tmp_path)
    path = tmp_path / "scienceqa/pid_splits.json"
    path.write_text('{"test": [')
    with pytest.raises(DataError, match=r"pid_splits.json: is not JSON"):
        questions(tmp_path)
    write_json(path, {"train": []})
    with pytest.raises(DataError, match=r"pid_splits.json: the field 'test' is missing"):
        questions(tmp_path)
    write_json(path, [1])
    with pytest.raises(DataError, match=r"pid_splits.json: must hold an object"):
        questions(tmp_path)


def test_mobilevlms_folder_name_is_known_and_missing_files_are_named(tmp_path: Path) -> None:
    write_scienceqa(tmp_path)
    (tmp_path / "scienceqa").rename(tmp_path / "sqa")
    assert len(questions(tmp_path)) == 4
    (tmp_path / "sqa/problems.json").unlink()
    with pytest.raises(ConfigError, match=r"has no scienceqa/problems.json or sqa/problems.json"):
        questions(tmp_path)


def test_another_order_of_problems_gives_the_same_score(tmp_path: Path) -> None:
    write_scienceqa(tmp_path)
    path = tmp_path / "scienceqa/llava_test_CQM-A.json"
    rows = json.loads(path.read_text())
    write_json(path, [row | {"id": int(row["id"])} for row in rows[::-1]])
    found = questions(tmp_path)
    assert [one.id for one in found] == ["12", "11", "5", "4"]
    assert score(found, ["E", "B", "A", "B"]).score == 50.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"question": "What was it?"}, "the problem's question, 'What was it?'"),
        # The right letter would be the other option's.
        ({"choices": ["dog", "cat"]}, "the problem's options, '(A) dog (B) cat'"),
    ],
)
def test_problems_of_another_edition_under_the_same_ids_are_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    write_scienceqa(tmp_path)
    path = tmp_path / "scienceqa/problems.json"
    problems = json.loads(path.read_text())
    problems["4"] |= changed
    write_json(path, problems)
    with pytest.raises(DataError) as caught:
        questions(tmp_path)
    assert "llava_test_CQM-A.json[0]: the text " in str(caught.value)
    assert f"does not hold {message}; take the files of one edition" in str(caught.value)


def test_a_problem_that_stands_twice_is_named(tmp_path: Path) -> None:
    write_scienceqa(tmp_path)
    path = tmp_path / "scienceqa/llava_test_CQM-A.json"
    rows = json.loads(path.read_text())
    write_json(path, [*rows, rows[1]])
    with pytest.raises(DataError, match=r"\[4\]: asks the problem 5 again, after .*\[1\]"):
        questions(tmp_path)


def test_an_image_of_another_problem_is_refused(tmp_path: Path) -> None:
    write_scienceqa(tmp_path)
    path = tmp_path / "scienceqa/llava_test_CQM-A.json"
    rows = json.loads(path.read_text())
    write_json(path, [rows[0] | {"image": "5/image.png"}, *rows[1:]])
    with pytest.raises(
        DataError, match=r"\[0\]: the image 5/image.png is not the question's, .* says 4;"
    ):
        questions(tmp_path)


def test_options_that_differ_in_signs_alone_are_refused_in_another_order(tmp_path: Path) -> None:
    write_scienceqa(tmp_path)
    path, problems = (tmp_path / f"scienceqa/{name}" for name in (
        "llava_test_CQM-A.json", "problems.json"))  # fmt: skip
    rows, known = json.loads(path.read_text()), json.loads(problems.read_text())
    known["4"] |= {"choices": ["x > 3", "x < 3"], "answer": 0}
    write_json(problems, known)
    turn = rows[0]["conversations"][0]
    asked = turn["value"]
    turn["value"] = asked.replace("(A) cat (B) dog", "(A)  x > 3 (B) x < 3")
    write_json(path, rows)
    assert len(questions(tmp_path)) == 4
    turn["value"] = asked.replace("(A) cat (B) dog", "(A) x < 3 (B) x > 3")
    write_json(path, rows)
    with pytest.raises(DataError, match=r"does not hold the problem's options, '\(A\) x > 3"):
        questions(tmp_path)
