"""POPE: labels joined by order, words in their exact case, and no division by zero."""

from pathlib import Path

import pytest

from mobilellama.config import DataError
from mobilellama.vlm.bench_pope import Key, questions, says_yes, score
from mobilellama.vlm.benchmark import Asked
from tests.vlm.benchmark_files import POPE_LABELS, SHORT, write_lines, write_pope


def asked(label: str, category: str = "random") -> Asked[Key]:
    key = Key(label=label == "yes", category=category)
    return Asked(id=0, images=(), text="", prompt="", key=key)


def test_labels_are_joined_by_their_order_in_a_category_not_by_id(tmp_path: Path) -> None:
    write_pope(tmp_path)
    found = questions(tmp_path)
    for name, labels in POPE_LABELS.items():
        mine = [one.key.label for one in found if one.key.category == name]
        assert mine == [label == "yes" for label in labels]
    assert found[0].text == f"<image>\nIs there a thing random 0 in the image?{SHORT}"
    assert found[0].images == (tmp_path / "pope/val2014/COCO_random_0.jpg",)


def test_labels_of_another_edition_are_refused(tmp_path: Path) -> None:
    write_pope(tmp_path)
    path = tmp_path / "pope/coco/coco_pope_popular.json"
    write_lines(path, [{"image": "COCO_popular_0.jpg", "label": "no"}])
    with pytest.raises(DataError, match=r"popular\.json: has 1 labels for 2 questions"):
        questions(tmp_path)
    rows = [{"image": f"COCO_popular_{i}.jpg", "label": "no"} for i in (1, 0)]
    write_lines(path, rows)
    with pytest.raises(DataError, match=r"popular.json:1: is a label of COCO_popular_1.jpg, and"):
        questions(tmp_path)


def test_an_unknown_category_is_refused(tmp_path: Path) -> None:
    write_pope(tmp_path)
    path = tmp_path / "pope/llava_pope_test.jsonl"
    line = path.read_text().splitlines()[0].replace('"random"', '"randomly"')
    path.write_text(path.read_text() + line)
    with pytest.raises(DataError, match=r"jsonl:9: the category randomly is none of adversarial"):
        questions(tmp_path)


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("Yes", True),
        ("No", False),
        ("no", False),
        ("No, there is not.", False),
        ("There is no dog", False),
        ("There is not", False),
        ("Not", True),  # only "not" is a word of no
        ("NO", True),
        ("nope", True),
        ("no!", True),
        ("no\n", True),  # split at spaces alone
        ("no\nbut", True),
        ("n,o", False),  # commas vanish
        ("Yes. No dog is there", True),  # up to the first dot
        (".no", True),
        ("", True),
    ],
)
def test_no_is_one_of_three_words_in_their_exact_case(text: str, yes: bool) -> None:
    assert says_yes(text) is yes


def test_the_score_is_the_mean_f1_of_the_categories(tmp_path: Path) -> None:
    """Adversarial: labels y n n y, said y y n n: P = R = F1 = 1/2. Popular: all right.
    Random: labels y n, said n n: nothing is found, F1 = 0.
    """
    write_pope(tmp_path)
    said = {"adversarial": iter("yynn"), "popular": iter("ny"), "random": iter("nn")}
    found = questions(tmp_path)
    words = {"y": "Yes", "n": "No."}
    scores = score(found, [words[next(said[one.key.category])] for one in found])
    assert scores.score == pytest.approx((50 + 100 + 0) / 3)
    assert scores.tables["by choice of objects"] == {
        "adversarial": {
            "questions": 4, "accuracy": 50.0, "precision": 50.0, "recall": 50.0, "F1": 50.0,
            "yes": 50.0,
        },
        "popular": {
            "questions": 2, "accuracy": 100.0, "precision": 100.0, "recall": 100.0, "F1": 100.0,
            "yes": 50.0,
        },
        "random": {
            "questions": 2, "accuracy": 50.0, "precision": None, "recall": 0.0, "F1": 0.0,
            "yes": 0.0,
        },
    }  # fmt: skip


def test_f1_is_that_of_precision_and_recall() -> None:
    """2 of 3 yes are right, of 4 true ones: P = 2/3, R = 1/2, F1 = 2 * 1/3 / (7/6) = 4/7."""
    labels = ["yes"] * 4 + ["no"] * 3
    said = ["yes", "yes", "no", "no", "yes", "no", "no"]
    row = score([asked(label) for label in labels], said).tables["by choice of objects"]["random"]
    assert row["precision"] == pytest.approx(200 / 3)
    assert row["recall"] == 50.0
    assert row["F1"] == pytest.approx(400 / 7)


def test_empty_categories_are_left_out_of_the_mean() -> None:
    scores = score([asked("yes")], ["yes"])
    assert scores.score == 100.0
    assert scores.tables["by choice of objects"]["popular"] == {
        "questions": 0, "accuracy": None, "precision": None, "recall": None, "F1": None, "yes": None
    }  # fmt: skip


def test_no_yes_at_all_gives_no_score_instead_of_an_error() -> None:
    scores = score([asked("no"), asked("no", "popular")], ["no", "no"])
    assert scores.score is None
    assert scores.tables["by choice of objects"]["random"]["accuracy"] == 100.0


def test_a_missing_answer_is_the_wrong_one_and_shifts_no_other() -> None:
    scores = score([asked("yes"), asked("no"), asked("no")], [None, None, "no"])
    row = scores.tables["by choice of objects"]["random"]
    assert row["accuracy"] == pytest.approx(100 / 3)
    assert row["yes"] == pytest.approx(100 / 3)
    assert scores.unanswered == 2
