"""TextVQA: questions joined with their ten answers, and what an answer is worth."""

import json
from pathlib import Path

import pytest

from mobilellama.config import DataError
from mobilellama.vlm.benchmarks.benchmark import Asked
from mobilellama.vlm.benchmarks.textvqa import (
    Key,
    question_in_prompt,
    questions,
    score,
    worth_by_leaving_one_out,
)
from tests.vlm.helpers.benchmark_files import (
    SHORT,
    llava_question,
    write_json,
    write_lines,
    write_textvqa,
)


def test_questions_of_one_image_find_each_its_own_answers(tmp_path: Path) -> None:
    write_textvqa(tmp_path)
    first, second, third = questions(tmp_path)
    assert first.id == second.id == "a1"
    assert first.text == f"<image>\nWhat is the brand?\nReference OCR token: COKE, 5{SHORT}"
    assert first.images == (tmp_path / "textvqa/train_images/a1.jpg",)
    assert (first.key.answers[0], first.key.has_ocr) == ("Coca Cola", True)
    assert (second.key.answers[0], second.key.has_ocr) == ("two", False)
    assert third.key.answers == ("$1,000.",) * 10


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        (f"What Is it?{SHORT}", "what is it?"),
        (f"What is it?\nReference OCR token: A, B{SHORT}", "what is it?"),
        (f"Reference OCR token: A, B\nWhat is it?{SHORT}", "what is it?"),
        ("OCR tokens: A. Question: What is it? Short answer:", "what is it?"),
        ("OCR tokens: A. Question: What\nis it? Short answer:", "what\nis it?"),
        ("OCR tokens: A. What is it?", None),
        ("What is it?", None),
        (f"What\nis\nit?{SHORT}", None),
        (f"What is it?\nReference OCR token:{SHORT}", None),  # no space behind the colon
    ],
)
def test_the_question_is_found_in_the_prompt_by_its_lines(
    prompt: str, question: str | None
) -> None:
    assert question_in_prompt(prompt) == question


def test_an_answer_is_worth_what_is_left_when_each_person_is_left_out() -> None:
    answers = ["a one"] * 1 + ["two"] * 1 + ["2"] * 1 + ["Three"] * 3 + ["four."] * 4
    assert worth_by_leaving_one_out(answers) == pytest.approx(
        {"1": 0.3, "2": 0.6, "3": 0.9, "4": 1.0}
    )


@pytest.mark.parametrize(
    ("people", "worth"), [(0, 0), (1, 30), (2, 60), (3, 90), (4, 100), (9, 100)]
)
def test_the_score_of_an_answer_depends_on_how_many_gave_it(people: int, worth: float) -> None:
    answers = ("Stop!",) * people + tuple(f"other{i}" for i in range(10 - people))
    key = Key(answers=answers, has_ocr=False)
    asked = Asked(id=1, images=(), text="", prompt="", key=key)
    assert score([asked], ["the stop"]).score == pytest.approx(worth)


def test_answers_are_compared_in_their_normal_form(tmp_path: Path) -> None:
    """coke: 3 of 10, 0.9; 2: four of ten, two of them as a word, 1; $1000: all."""
    write_textvqa(tmp_path)
    scores = score(questions(tmp_path), ["Coke.", "Two", "$1000"])
    assert scores.score == pytest.approx(100 * 2.9 / 3)
    assert scores.tables["by prompt"]["without"] == {"questions": 1, "accuracy": 100.0}


def test_wrong_and_missing_answers_are_worth_nothing(tmp_path: Path) -> None:
    write_textvqa(tmp_path)
    scores = score(questions(tmp_path), ["Fanta", None, ""])
    assert scores.score == 0.0
    assert scores.unanswered == 1
    assert score([], []).score is None


def test_of_two_annotations_of_one_question_the_later_counts(tmp_path: Path) -> None:
    write_textvqa(tmp_path)
    rows = [
        {"image_id": "a1", "question": question, "answers": [answer] * 10}
        for question, answer in (("What is it?", "old"), ("what is IT?", "new"))
    ]
    write_json(tmp_path / "textvqa/TextVQA_0.5.1_val.json", {"data": rows})
    path = tmp_path / "textvqa/llava_textvqa_val_v051_ocr.jsonl"
    write_lines(path, [llava_question("a1", "a1.jpg", f"What is it?{SHORT}")])
    assert questions(tmp_path)[0].key.answers == ("new",) * 10


def test_what_cannot_be_joined_is_named(tmp_path: Path) -> None:
    write_textvqa(tmp_path)
    path = tmp_path / "textvqa/llava_textvqa_val_v051_ocr.jsonl"
    write_lines(path, [llava_question("a1", "a1.jpg", f"Who?{SHORT}")])
    with pytest.raises(DataError, match=r"jsonl:1: image a1 has no question 'who\?' in "):
        questions(tmp_path)
    write_lines(path, [llava_question("a1", "a1.jpg", "Who?")])
    with pytest.raises(DataError, match=r"jsonl:1: the text is not a question and an instruction"):
        questions(tmp_path)


def test_annotations_without_ten_answers_are_refused(tmp_path: Path) -> None:
    write_textvqa(tmp_path)
    row = {"image_id": "a1", "question": "What is the brand?", "answers": ["x"] * 9}
    write_json(tmp_path / "textvqa/TextVQA_0.5.1_val.json", {"data": [row]})
    with pytest.raises(DataError, match=r"val.json, data\[0\]: has 9 answers"):
        questions(tmp_path)


def test_another_order_of_either_file_gives_the_same_score(tmp_path: Path) -> None:
    write_textvqa(tmp_path)
    path = tmp_path / "textvqa/llava_textvqa_val_v051_ocr.jsonl"
    answers = ["coke", "2", "$1000"]
    published = score(questions(tmp_path), answers).score
    path.write_text("".join(path.read_text().splitlines(keepends=True)[::-1]))
    assert score(questions(tmp_path), answers[::-1]).score == published
    path = tmp_path / "textvqa/TextVQA_0.5.1_val.json"
    write_json(path, {"data": json.loads(path.read_text())["data"][::-1]})
    assert score(questions(tmp_path), answers[::-1]).score == published


def test_an_image_of_another_question_is_refused(tmp_path: Path) -> None:
    write_textvqa(tmp_path)
    path = tmp_path / "textvqa/llava_textvqa_val_v051_ocr.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [rows[0] | {"image": rows[2]["image"]}, *rows[1:]])
    with pytest.raises(
        DataError, match=r"jsonl:1: the image b2\.jpg is not the question's, .* says a1;"
    ):
        questions(tmp_path)
