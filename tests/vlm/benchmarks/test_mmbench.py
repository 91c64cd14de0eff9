"""MMBench: the table as the original reads it, letters and texts of options, rotations."""

import csv
import io
from pathlib import Path

import pytest
from PIL import Image

from mobilellama.config import DataError
from mobilellama.vlm.benchmarks.mmbench import (
    is_absent,
    letter_among_words,
    only_option_in,
    option_of,
    options_until_the_first_absent,
    questions,
    score,
    submission,
)
from tests.vlm.helpers.benchmark_files import mmbench_row, png, write_mmbench

LETTER = "\nAnswer with the option's letter from the given choices directly."
OPTIONS = {"A": "cat", "B": "dog", "C": "hot dog"}


def test_a_row_is_asked_with_its_hint_and_options(tmp_path: Path) -> None:
    write_mmbench(tmp_path)
    first, second, *_ = questions(tmp_path)
    assert first.prompt == "Which one is it?\nA. cat\nB. dog\nC. cow"
    assert first.text == f"<image>\n{first.prompt}{LETTER}"
    assert second.prompt == "It falls.\nWhich one is it?\nA. up\nB. down"
    assert (first.id, first.key.answer, first.key.ability) == (241, "A", "perception")
    assert first.images == (png(41),)
    image = first.images[0]
    assert isinstance(image, bytes)
    assert Image.open(io.BytesIO(image)).size == (8, 6)


@pytest.mark.parametrize(
    ("cell", "absent"),
    [
        ("", True), ("nan", True), ("NaN", True), ("NAN", True), ("none", True), ("None", True),
        ("NA", True), ("N/A", True), ("null", True), ("NULL", True), ("n/a", True),
        ("na", False), ("Null", False), ("None of these", False), (" ", False), ("0", False),
    ],
)  # fmt: skip
def test_cells_are_absent_as_pandas_and_the_original_have_it(cell: str, absent: bool) -> None:
    assert is_absent(cell) is absent


def test_the_prompt_stops_at_the_first_absent_option(tmp_path: Path) -> None:
    row = mmbench_row(1, ["cat", "None", "cow"], "C")
    assert options_until_the_first_absent(row) == {"A": "cat"}
    write_mmbench(tmp_path, [row])
    (asked,) = questions(tmp_path)
    assert asked.prompt == "Which one is it?\nA. cat"
    # Yet the scorer looks for the texts of all that are there.
    assert asked.key.options == {"A": "cat", "C": "cow"}


def test_quoted_cells_may_hold_tabs_quotes_and_line_breaks(tmp_path: Path) -> None:
    text = '"Which\tis ""it""?\nSay."'
    write_mmbench(tmp_path, [mmbench_row(1, ["a cat", "dog"], "B", question=text)])
    (asked,) = questions(tmp_path)
    assert asked.prompt == 'Which\tis "it"?\nSay.\nA. a cat\nB. dog'


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("B. dog", "B"),
        ("(B)", "B"),
        ("(B).", "B"),
        ("answer: B)", "B"),
        (":B,", "B"),
        ("The answer is B", "B"),
        ("E", "E"),  # an option that no question has: wrong, not unread
        ("F", None),
        ("b", None),
        ("A or B", None),
        ("A. or (B)", "A"),  # the forms are tried in turn
        ("A. or B.", None),
        ("A cat", "A"),
        ("A cat is here", None),  # an article among more than three words
        ("A cat is (B)", "B"),
        ("A cat A.", "A"),
        ("B is A", None),
        ("", None),
    ],
)
def test_the_letter_is_the_only_one_that_stands_alone(text: str, letter: str | None) -> None:
    assert letter_among_words(text) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("It is a CAT.", "A"),
        ("hot dog", None),  # "dog" is held as well
        ("dog", "B"),
        ("a concatenation", "A"),
        ("cow", None),
    ],
)
def test_an_option_is_chosen_by_its_text_if_it_is_the_only_one(
    text: str, letter: str | None
) -> None:
    assert only_option_in(text, OPTIONS) == letter
    assert option_of(text, OPTIONS) == letter


def test_a_letter_goes_before_a_text() -> None:
    assert option_of("A dog", OPTIONS) == "A"
    assert option_of("A dog is it", OPTIONS) == "B"


def test_a_question_is_right_only_in_every_rotation(tmp_path: Path) -> None:
    """Rows: 241, 252, 241 again, 252 again, 241 a third time; right are A, B, C, A, B."""
    write_mmbench(tmp_path)
    found = questions(tmp_path)
    assert score(found, ["A", "B", "C", "A", "B"]).score == 100.0
    scores = score(found, ["A", "B.", "cat", "A", "C"])
    assert scores.score == 50.0
    assert scores.tables["by rule"] == {
        "every rotation": {"questions": 2, "accuracy": 50.0},
        "every row alone": {"questions": 5, "accuracy": 80.0},
    }
    # The category is the first row's.
    assert scores.tables["by category"] == {
        "motion": {"questions": 1, "accuracy": 100.0},
        "object": {"questions": 1, "accuracy": 0.0},
    }
    assert scores.tables["by ability"]["x"] == {"questions": 1, "accuracy": 100.0}


def test_what_chooses_nothing_or_is_missing_is_wrong_and_counted(tmp_path: Path) -> None:
    write_mmbench(tmp_path)
    scores = score(questions(tmp_path), ["A", None, "C", "A", "who knows"])
    assert scores.score == 0.0
    assert scores.unanswered == 1
    assert scores.notes == ("No option could be read from 1 answers.",)


def test_rotations_without_their_first_row_count_for_nothing(tmp_path: Path) -> None:
    two = ["up", "down"]
    write_mmbench(tmp_path, [mmbench_row(7, two, "A"), mmbench_row(1_000_008, two, "A")])
    scores = score(questions(tmp_path), ["A", "B"])
    assert scores.score == 100.0
    assert scores.tables["by rule"]["every row alone"]["accuracy"] == 50.0
    assert score(questions(tmp_path)[1:], ["A"]).score is None
    assert score([], []).score is None


def test_the_submission_has_the_converters_columns(tmp_path: Path) -> None:
    write_mmbench(tmp_path)
    files = submission(questions(tmp_path), ["A", "B. a\ttab\nand", "C", None, "B"])
    rows = list(csv.reader(io.StringIO(files["mmbench.tsv"].decode()), delimiter="\t"))
    assert rows[0] == ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
    assert rows[2] == [
        "252", "Which one is it?", "up", "down", "", "", "B. a\ttab\nand", "B", "dev",
    ]  # fmt: skip
    assert [row[6] for row in rows[1:]] == ["A", "B. a\ttab\nand", "C", "", "B"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": ""}, "has no answer; take a dev file"),
        ({"answer": "AB"}, "the answer AB is not a letter"),
        ({"index": "1.5"}, "the index 1.5 is not a number"),
        ({"image": "%%%"}, "the image is not base64"),
        ({"image": ""}, "has no image"),
        ({"A": "nan"}, "has no A"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, change: dict[str, str], message: str) -> None:
    write_mmbench(tmp_path, [mmbench_row(1, ["a", "b"], "A"), mmbench_row(2, ["a"], "A") | change])
    with pytest.raises(DataError, match=rf"20231003.tsv:row 2: {message}"):
        questions(tmp_path)


def test_a_truncated_or_empty_table_is_refused_and_the_csv_limit_put_back(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    write_mmbench(tmp_path)
    path = tmp_path / "mmbench/mmbench_dev_en_20231003.tsv"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="row 5: the row is torn"):
        questions(tmp_path)
    write_mmbench(tmp_path, [])
    with pytest.raises(DataError, match="holds no question"):
        questions(tmp_path)
    assert csv.field_size_limit() == limit


def test_an_image_of_any_length_is_one_cell(tmp_path: Path) -> None:
    """Python's csv refuses cells above 131,072 characters unless it is told."""
    write_mmbench(tmp_path, [mmbench_row(1, ["a", "b"], "A", image="QUJD" * 50_000)])
    (asked,) = questions(tmp_path)
    assert asked.images == (b"ABC" * 50_000,)


THREE = ["cat", "dog", "cow"]


def test_another_order_of_the_rows_gives_the_same_score(tmp_path: Path) -> None:
    write_mmbench(tmp_path)
    published = questions(tmp_path)
    said = {one.id: one.key.answer for one in published} | {1_000_252: "B"}
    assert score(published, [said[one.id] for one in published]).score == 50.0
    path = tmp_path / "mmbench/mmbench_dev_en_20231003.tsv"
    head, *lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([head, *lines[::-1]]))
    turned = questions(tmp_path)
    assert [one.id for one in turned] == [one.id for one in published][::-1]
    scores = score(turned, [said[one.id] for one in turned])
    assert (scores.score, scores.notes) == (50.0, ())


def test_an_index_that_stands_twice_or_for_two_questions_is_refused(tmp_path: Path) -> None:
    row = mmbench_row(241, THREE, "A")
    write_mmbench(tmp_path, [row, mmbench_row(7, THREE, "B"), row])
    with pytest.raises(DataError, match=r"tsv:row 3: has the index 241 again, after .*tsv:row 1"):
        questions(tmp_path)
    write_mmbench(tmp_path, [row, mmbench_row(1_000_241, THREE, "B", question="Who?")])
    with pytest.raises(
        DataError, match=r"row 2: the index 1000241 is a rotation of 241, but the q"
    ):
        questions(tmp_path)


def test_a_table_without_rotations_is_told_to_be_another_measure(tmp_path: Path) -> None:
    rows = [mmbench_row(241, THREE, "A"), mmbench_row(7, ["up", "down"], "B")]
    rows += [mmbench_row(1_000_007, ["down", "up"], "A"), mmbench_row(1_000_500, THREE, "A")]
    write_mmbench(tmp_path, rows)
    scores = score(questions(tmp_path), ["A", "B", "A", "A"])
    assert scores.notes == (
        "Not comparable with the published scores: 1 of 2 questions have fewer rows than options.",
        "Counted in 'every row alone' only: 1 row of questions whose first row the table lacks.",
    )
