"""POPE: labels joined by image and question, words in their exact case, no division by zero."""

from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import DataError
from mobilellama.vlm.benchmarks.benchmark import Asked
from mobilellama.vlm.benchmarks.pope import Key, questions, says_yes, score
from tests.vlm.helpers.benchmark_files import (
    POPE_LABELS,
    SHORT,
    llava_question,
    write_lines,
    write_pope,
)


def asked(label: str, category: str = "random") -> Asked[Key]:
    key = Key(label=label == "yes", category=category)
    return Asked(id=0, images=(), text="", prompt="", key=key)


def pope_label(image: str, text: str, label: str, number: int = 0) -> dict[str, Any]:
    return {"question_id": number, "image": image, "text": text, "label": label}


def test_labels_are_joined_by_image_and_question_not_by_id(tmp_path: Path) -> None:
    write_pope(tmp_path)
    found = questions(tmp_path)
    for name, labels in POPE_LABELS.items():
        mine = [one.key.label for one in found if one.key.category == name]
        assert mine == [label == "yes" for label in labels]
    assert found[0].text == f"<image>\nIs there a thing random 0 in the image?{SHORT}"
    assert found[0].images == (tmp_path / "pope/val2014/COCO_random_0.jpg",)


THINGS = ["dog", "cat", "car", "bus", "cup", "hat"]


def write_six_of_each_image(data: Path, *, turned: int) -> None:
    """Write POPE as it is: six questions an image, in the labels begun with the `turned`th."""
    rows, labels = [], []
    for image in ("COCO_1.jpg", "COCO_2.jpg"):
        texts = [f"Is there a {thing} in the image?" for thing in THINGS]
        rows += [llava_question(f"{image}{i}", image, f"{t}{SHORT}") for i, t in enumerate(texts)]
        its = [
            pope_label(f"val2014/{image}", t, ("yes", "no")[i % 2], i) for i, t in enumerate(texts)
        ]
        labels += its[turned:] + its[:turned]
    asked = [row | {"category": name} for name in POPE_LABELS for row in rows]
    write_lines(data / "pope/llava_pope_test.jsonl", asked)
    (data / "pope/val2014").mkdir(parents=True, exist_ok=True)
    for name in POPE_LABELS:
        write_lines(data / f"pope/coco/coco_pope_{name}.json", labels)


@pytest.mark.parametrize("turned", [0, 1, 3])
def test_labels_in_another_order_within_an_image_give_the_same_score(
    tmp_path: Path, turned: int
) -> None:
    write_six_of_each_image(tmp_path, turned=turned)
    found = questions(tmp_path)
    answers = [("Yes", "No")[i % 2] for i in range(len(found))]
    assert score(found, answers).score == 100.0


def test_a_question_asked_twice_takes_its_labels_in_order(tmp_path: Path) -> None:
    write_pope(tmp_path)
    path = tmp_path / "pope/llava_pope_test.jsonl"
    rows = [llava_question(i, "1.jpg", f"Is there a cat?{SHORT}", "popular") for i in range(2)]
    write_lines(path, rows)
    for name in ("random", "adversarial"):
        write_lines(tmp_path / f"pope/coco/coco_pope_{name}.json", [])
    labels = [pope_label("1.jpg", "Is there a cat?", said) for said in ("yes", "no")]
    write_lines(tmp_path / "pope/coco/coco_pope_popular.json", labels)
    assert [one.key.label for one in questions(tmp_path)] == [True, False]
    write_lines(path, [*rows, rows[0]])
    message = r"jsonl:3: .*coco_pope_popular.json has no further label for 'Is there a cat\?' on 1"
    with pytest.raises(DataError, match=message):
        questions(tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [(0, "COCO_popular_0.jpg", "no")],
            r"jsonl:7: .*popular.json has no label for 'Is there a",
        ),
        (
            [(0, "COCO_popular_1.jpg", "no"), (1, "COCO_popular_0.jpg", "no")],
            r"jsonl:3: .* on COCO",
        ),
        (
            [(i, f"COCO_popular_{i}.jpg", "no") for i in range(4)],
            r"popular.json:3: .*pope_test.jsonl has no question for this label \(2 such labels",
        ),
        (
            [(0, "COCO_popular_0.jpg", "nein")],
            r"json:1: the label is 'nein', and must be yes or no",
        ),
    ],
)
def test_labels_of_another_edition_are_refused(
    tmp_path: Path, labels: list[tuple[int, str, str]], message: str
) -> None:
    write_pope(tmp_path)
    text = "Is there a thing popular {} in the image?"
    rows = [pope_label(image, text.format(i), label) for i, image, label in labels]
    write_lines(tmp_path / "pope/coco/coco_pope_popular.json", rows)
    with pytest.raises(DataError, match=message) as caught:
        questions(tmp_path)
    assert str(caught.value).endswith(
        "take both from the same edition, that of LLaVA's Evaluation.md"
    )


def test_labels_without_image_or_text_join_nothing(tmp_path: Path) -> None:
    write_pope(tmp_path)
    path = tmp_path / "pope/coco/coco_pope_popular.json"
    for lacking in ("image", "text"):
        row = pope_label("COCO_popular_0.jpg", "Is there?", "no")
        del row[lacking]
        write_lines(path, [row])
        with pytest.raises(DataError, match=f"json:1: the field '{lacking}' is missing"):
            questions(tmp_path)


def test_an_unknown_category_is_refused(tmp_path: Path) -> None:
    write_pope(tmp_path)
    path = tmp_path / "pope/llava_pope_test.jsonl"
    line = path.read_text().splitlines()[0].replace('"random"', '"randomly"')
    path.write_text(path.read_text() + line)
    with pytest.raises(
        DataError, match=r"jsonl:9: the category randomly must be one of adversarial"
    ):
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
            "yes": 50.0, "neither": 0,
        },
        "popular": {
            "questions": 2, "accuracy": 100.0, "precision": 100.0, "recall": 100.0, "F1": 100.0,
            "yes": 50.0, "neither": 0,
        },
        "random": {
            "questions": 2, "accuracy": 50.0, "precision": None, "recall": 0.0, "F1": 0.0,
            "yes": 0.0, "neither": 0,
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
        "questions": 0, "accuracy": None, "precision": None, "recall": None, "F1": None,
        "yes": None, "neither": 0,
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


def test_answers_that_say_neither_are_counted_and_still_yes() -> None:
    """ "NO" and "nope" too: the original knows neither. "yes" in any spelling is said."""
    said = ["Yes", "YES!", "it is.", "", "NO", "No", None]
    scores = score([asked("yes") for _ in said], said)
    row = scores.tables["by choice of objects"]["random"]
    assert (row["neither"], row["questions"]) == (3, 7)
    assert row["recall"] == pytest.approx(500 / 7)
    assert scores.notes == (
        "3 answers say neither yes nor no; as in the original, they count as yes.",
    )


def write_random(data: Path, rows: list[dict[str, Any]], labels: list[dict[str, Any]]) -> None:
    write_pope(data)
    write_lines(data / "pope/llava_pope_test.jsonl", [row | {"category": "random"} for row in rows])
    for name in POPE_LABELS:
        write_lines(data / f"pope/coco/coco_pope_{name}.json", labels if name == "random" else [])


@pytest.mark.parametrize("turned", [False, True])
def test_images_of_one_name_in_two_folders_keep_their_own_labels(
    tmp_path: Path, turned: bool
) -> None:
    text = "Is there a dog in the image?"
    rows = [llava_question(i, f"{name}/1.jpg", text + SHORT) for i, name in enumerate("ab")]
    labels = [
        pope_label(f"val/{name}/1.jpg", text, said)
        for name, said in zip("ab", ("yes", "no"), strict=True)
    ]
    write_random(tmp_path, rows, labels[::-1] if turned else labels)
    assert [one.key.label for one in questions(tmp_path)] == [True, False]


def test_questions_that_differ_in_signs_alone_keep_their_own_labels(tmp_path: Path) -> None:
    texts = ["Is there a C in the image?", "Is there a C++ in the image?"]
    rows = [llava_question(i, "1.jpg", text + SHORT) for i, text in enumerate(texts)]
    labels = [
        pope_label("1.jpg", text, said) for text, said in zip(texts, ("yes", "no"), strict=True)
    ]
    write_random(tmp_path, rows, labels[::-1])
    assert [one.key.label for one in questions(tmp_path)] == [True, False]
    unsaid = [row | {"text": "is there a c in the image"} for row in rows]
    write_random(tmp_path, unsaid, labels)
    message = r"jsonl:1: .*random.json:1 and .*random.json:2 differ, but either may be the label"
    with pytest.raises(DataError, match=message):
        questions(tmp_path)


def test_the_closing_line_may_be_spelt_otherwise(tmp_path: Path) -> None:
    text = "Is there a dog in the image?"
    rows = [llava_question(0, "1.jpg", text + SHORT)]
    closing = "  answer the question using a single word or phrase"
    write_random(tmp_path, rows, [pope_label("1.jpg", text + closing, "yes")])
    assert [one.key.label for one in questions(tmp_path)] == [True]
