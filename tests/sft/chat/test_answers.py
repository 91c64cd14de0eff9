"""The file of answers: what a killed writer leaves, and what is not gone on with."""

import json
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.sft.chat.answers import Answers

ROWS = [{"id": i, "text": "\u2028 ä"} for i in range(3)]
SETTINGS = {"model": "a" * 64, "seed": 1}


def answered(number: int) -> dict[str, Any]:
    return ROWS[number] | {"answer": f"answer {number}"}


def opened(path: Path, *, overwrite: bool = False, **settings: Any) -> Answers:
    return Answers(path, SETTINGS | settings, overwrite=overwrite)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the answers to the first two rows."""
    file = tmp_path / "answers.jsonl"
    with opened(file) as answers:
        assert answers.keep(ROWS, added=["answer"]) == []
        answers.write([answered(0), answered(1)])
    return file


def test_answers_come_back_and_the_next_one_stands_behind_them(path: Path) -> None:
    with opened(path) as answers:
        assert answers.keep(ROWS, added=["answer"]) == [answered(0), answered(1)]
        answers.write([answered(2)])
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [
        *map(answered, (0, 1, 2))
    ]


def test_a_torn_last_line_is_cut_off_and_whole_lines_stay(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": 2, "answ')
    with opened(path) as answers:
        assert len(answers.keep(ROWS, added=["answer"])) == 2
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ['{"id": 9, "answer": ""}', '{"id": 2}', "[]", "{"])
def test_a_line_that_is_no_answer_to_its_row_is_named(path: Path, line: str) -> None:
    path.write_bytes(path.read_bytes() + line.encode() + b"\n")
    with (
        opened(path) as answers,
        pytest.raises(DataError, match="line 3 is not an answer to row 3"),
    ):
        answers.keep(ROWS, added=["answer"])


def test_more_answers_than_rows_are_refused(path: Path) -> None:
    with (
        opened(path) as answers,
        pytest.raises(DataError, match="line 2 is not an answer to row 2"),
    ):
        answers.keep(ROWS[:1], added=["answer"])


def test_other_settings_are_refused_by_name_unless_it_begins_again(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"was made with seed 1, not 2\. Give another --output"):
        opened(path, seed=2)
    with opened(path, overwrite=True, seed=2) as answers:
        assert answers.keep(ROWS, added=["answer"]) == []
    assert path.read_bytes() == b""


def test_a_second_writer_is_refused_while_the_first_one_writes(path: Path) -> None:
    with opened(path), pytest.raises(ConfigError, match="is being written by another process"):
        opened(path)
    with opened(path):
        pass


def test_a_file_that_something_else_made_is_refused(path: Path) -> None:
    path.with_name(f"{path.name}.meta.json").unlink()
    with pytest.raises(
        ConfigError, match=r"exists, but has no answers\.jsonl\.meta\.json that says how"
    ):
        opened(path)


def test_an_integer_of_more_than_64_bits_is_copied_whole(tmp_path: Path) -> None:
    row = {"id": 1 << 70}
    with opened(tmp_path / "a.jsonl") as answers:
        answers.write([row | {"answer": ""}])
        assert answers.keep([row], added=["answer"]) == [row | {"answer": ""}]
