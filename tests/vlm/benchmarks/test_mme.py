"""MME: questions found in the benchmark's tree, pairs in order, points."""

import json
import random
from pathlib import Path

import pytest

from mobilellama.config import DataError
from mobilellama.vlm.benchmarks.benchmark import Asked
from mobilellama.vlm.benchmarks.mme import (
    COGNITION,
    PERCEPTION,
    Key,
    find_key,
    questions,
    read_tree,
    score,
    submission,
    verdict_of_first_four_characters,
)
from tests.vlm.helpers.benchmark_files import SHORT, write, write_lines, write_mme

TREE = "MME/MME_Benchmark_release_version"


def asked(file: str, answer: str, category: str = "count") -> Asked[Key]:
    key = Key(category=category, file=file, question="Is it?", answer=answer)
    return Asked(id=f"{category}/{file}", images=(), text="", prompt="", key=key)


def test_a_question_is_asked_with_llavas_instruction_and_keyed_with_its_own(
    tmp_path: Path,
) -> None:
    write_mme(tmp_path)
    found = questions(tmp_path)
    assert len(found) == 28
    first, second = found[:2]
    assert first.text == f"<image>\nIs 0 here?{SHORT}"
    assert first.images == (tmp_path / TREE / "existence/existence_0000.v2.png",)
    assert first.key == Key(
        category="existence",
        file="existence_0000.txt",  # the image's name up to its first dot
        question="Is 0 here? Please answer yes or no.",
        answer="yes",
    )
    # The tree has two spaces before this one's instruction.
    assert second.key.question == "Is 0 not here?  Please answer yes or no."
    assert second.key.answer == "no"


def test_texts_lie_beside_the_images_or_in_a_folder_of_their_own(tmp_path: Path) -> None:
    write_mme(tmp_path)
    tree = read_tree(tmp_path / TREE)
    assert len(tree) == 28
    assert ("landmark", "landmark_0000.txt", "Is 0 here? Please answer yes or no.") in tree
    assert (tmp_path / TREE / "landmark/questions_answers_YN/landmark_0000.txt").is_file()
    assert (tmp_path / TREE / "count/count_0000.txt").is_file()


def test_a_later_archive_has_one_folder_more(tmp_path: Path) -> None:
    write_mme(tmp_path)
    (tmp_path / TREE).rename(tmp_path / "moved")
    (tmp_path / TREE).mkdir()
    (tmp_path / "moved").rename(tmp_path / TREE / "MME_Benchmark")
    image = questions(tmp_path)[0].images[0]
    assert image == tmp_path / TREE / "MME_Benchmark/existence/existence_0000.v2.png"


def test_a_prompt_that_ends_as_the_tree_has_it_is_looked_up_as_it_is() -> None:
    asks = "Is it? Please answer yes or no."
    answers = {("count", "1.txt", asks): "No"}
    key = find_key("count/1.png", f"{asks}{SHORT}", answers)
    assert key == Key(category="count", file="1.txt", question=asks, answer="no")
    assert find_key("count/1.png", "Is it?", answers) == key
    assert find_key("count/2.png", "Is it?", answers) is None


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("yes", "yes"),
        ("Yes.", "yes"),
        ("YES, it is", "yes"),
        ("no", "no"),
        ("No\n", "no"),
        ("Not sure", "no"),
        ("nope", "no"),
        ("I know", "other"),  # "i kn"
        ("Know", "no"),
        ("There is no", "other"),
        ("  yes", "other"),  # "  ye"
        (" yes", "yes"),
        ("y", "other"),
        ("", "other"),
    ],
)
def test_the_first_four_characters_decide(text: str, verdict: str) -> None:
    assert verdict_of_first_four_characters(text) == verdict


def test_points_are_accuracy_plus_the_share_of_images_with_both_right() -> None:
    """Three images: both right, one right, none: 3 of 6 questions, 1 of 3 images."""
    pairs = [asked(file, answer) for file in ("1", "2", "3") for answer in ("yes", "no")]
    scores = score(pairs, ["Yes", "No", "Yes", "Yes", "perhaps", None])
    assert scores.tables["perception"]["count"] == {
        "questions": 6,
        "accuracy": 50.0,
        "accuracy+": pytest.approx(100 / 3),
        "points": pytest.approx(50 + 100 / 3),
        "other": 1,
    }
    assert scores.unanswered == 1


def test_a_pair_is_an_images_two_questions_whatever_lies_between() -> None:
    mixed = [
        asked("1", "yes", "count"), asked("9", "yes", "OCR"), asked("2", "yes", "count"),
        asked("1", "no", "count"), asked("9", "no", "OCR"), asked("2", "no", "count"),
    ]  # fmt: skip
    tables = score(mixed, ["yes", "yes", "yes", "no", "yes", "no"]).tables
    assert tables["perception"]["count"]["points"] == 200.0
    assert tables["perception"]["OCR"]["points"] == 50.0


def test_perception_is_the_sum_of_ten_categories_and_cognition_of_four(tmp_path: Path) -> None:
    write_mme(tmp_path, images=2)
    found = questions(tmp_path)
    right = [one.key.answer.title() for one in found]
    scores = score(found, right)
    assert scores.score == 2000.0
    assert scores.tables["perception"]["sum"]["points"] == 2000.0
    assert scores.tables["cognition"]["sum"] == {"questions": 16, "points": 800.0, "other": 0}
    assert list(scores.tables["perception"]) == [*PERCEPTION, "sum"]
    assert list(scores.tables["cognition"]) == [*COGNITION, "sum"]
    # All yes: half of the questions and no image.
    assert score(found, ["yes"] * len(found)).score == 500.0


def test_without_all_ten_categories_there_is_no_score() -> None:
    scores = score([asked("1", "yes"), asked("1", "no")], ["yes", "no"])
    assert scores.score is None
    assert scores.notes == ("No score: 1 of the 10 categories of perception are there.",)
    assert scores.tables["perception"]["sum"]["points"] == 200.0
    assert score([], []).score is None


def test_one_question_of_an_image_counts_for_accuracy_alone() -> None:
    row = score([asked("1", "yes")], ["yes"]).tables["perception"]["count"]
    assert (row["accuracy"], row["accuracy+"], row["points"]) == (100.0, None, 100.0)


def test_another_order_of_the_questions_gives_the_same_score_and_whole_pairs(
    tmp_path: Path,
) -> None:
    """A third of the answers are wrong, so that a pair torn apart would change accuracy+."""
    write_mme(tmp_path, images=3)
    path = tmp_path / "MME/llava_mme.jsonl"
    published = questions(tmp_path)
    said = {one.prompt + str(one.id): ("Yes", "No", "No")[i % 3] for i, one in enumerate(published)}
    lines = path.read_text().splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    path.write_text("".join(lines))
    shuffled = questions(tmp_path)
    assert [one.id for one in shuffled] != [one.id for one in published]
    first, second = (
        score(asked, [said[one.prompt + str(one.id)] for one in asked])
        for asked in (published, shuffled)
    )
    assert first.score == second.score not in (None, 0.0, 2000.0)
    assert first.tables == second.tables
    for content in submission(shuffled, [None] * len(shuffled)).values():
        files = [line.split("\t")[0] for line in content.decode().splitlines()]
        assert files[::2] == files[1::2]


def test_an_image_without_two_different_questions_is_refused(tmp_path: Path) -> None:
    write_mme(tmp_path, images=2)
    path = tmp_path / "MME/llava_mme.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    message = r"'Is 1 here\?.* of code_reasoning/.* has 1 questions, but must have two"
    with pytest.raises(DataError, match=message):
        questions(tmp_path)
    for twice in ([*lines, lines[0]], [lines[0], lines[0], *lines[2:]]):
        path.write_text("".join(twice))
        with pytest.raises(
            DataError, match=r"'Is 0 here\?.* of existence/.* has . questions, but must have two"
        ):
            questions(tmp_path)


def test_a_question_that_the_tree_lacks_is_named(tmp_path: Path) -> None:
    write_mme(tmp_path)
    path = tmp_path / TREE / "count/count_0000.txt"
    path.write_text(path.read_text().replace("not here", "there"))
    with pytest.raises(DataError, match=r"jsonl:4: .* has no question like 'Is 0 not here\?"):
        questions(tmp_path)


def test_a_line_of_the_tree_without_an_answer_is_named(tmp_path: Path) -> None:
    write_mme(tmp_path)
    path = write(tmp_path / TREE / "count/zzz.txt", "\nIs it? Please answer yes or no. Yes\n")
    with pytest.raises(DataError, match=r"zzz.txt:2: must be a question, a tab, and Yes or No"):
        questions(tmp_path)
    path.write_bytes(b"Is it \xff?\tYes\n")
    with pytest.raises(DataError, match=r"zzz.txt: .*can't decode byte 0xff"):
        questions(tmp_path)


def test_a_category_that_mme_has_not_is_refused(tmp_path: Path) -> None:
    write_mme(tmp_path)
    (tmp_path / TREE / "count").rename(tmp_path / TREE / "counts")
    path = tmp_path / "MME/llava_mme.jsonl"
    path.write_text(path.read_text().replace('"count/', '"counts/'))
    with pytest.raises(DataError, match=r"jsonl:3: 'counts' is not a category of MME"):
        questions(tmp_path)


def test_the_submission_has_a_line_of_four_columns_for_each_question(tmp_path: Path) -> None:
    write_mme(tmp_path)
    found = questions(tmp_path)
    files = submission(found, ["Yes", "No\tor\nyes", *[None] * (len(found) - 2)])
    assert set(files) == {f"{name}.txt" for name in (*PERCEPTION, *COGNITION)}
    assert files["existence.txt"].decode() == (
        "existence_0000.txt\tIs 0 here? Please answer yes or no.\tyes\tYes\n"
        "existence_0000.txt\tIs 0 not here?  Please answer yes or no.\tno\tNo or yes\n"
    )


@pytest.mark.parametrize(
    "image", ["count/count_0000.v2.png", "existence/existence_0001.v2.png", "existence_0000.png"]
)
def test_an_image_of_another_question_is_refused(tmp_path: Path, image: str) -> None:
    write_mme(tmp_path, images=2)
    path = tmp_path / "MME/llava_mme.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0]["image"] == "existence/existence_0000.v2.png"
    write_lines(path, [rows[0] | {"image": image}, *rows[1:]])
    with pytest.raises(DataError, match=rf"jsonl:1: the image {image} is not the"):
        questions(tmp_path)
