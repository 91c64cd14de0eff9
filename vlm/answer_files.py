"""Answers that were made elsewhere, in the files that LLaVA's and MobileVLM's scripts write.

    {"question_id": ..., "prompt": "...", "text": "the answer", ...}      a line a question

Order is not trusted: a line belongs to the question of its id, and where several questions have
that id (TextVQA's and MME's do) to the one of its prompt, or else to the next of them.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mobilellama.config import ConfigError, DataError
from mobilellama.files import read_json_lines
from mobilellama.vlm.benchmark import Asked, field

_ENDING = ".jsonl"
_REMEDY = "Give the answers to the questions of --data"


def find_answers(given: str, names: Sequence[str]) -> dict[str, Path]:
    """Return the file of each benchmark's answers.

    Args:
        given: --answers, a file of one benchmark's or a folder with NAME.jsonl of each.
        names: of the benchmarks.

    Raises:
        ConfigError: a file is missing, or one is given for several benchmarks.
    """
    path = Path(given)
    if path.is_file():
        if len(names) > 1:
            rule = f"is one file, for {len(names)} benchmarks"
            remedy = f"Name one --benchmark, or give a folder of {names[0]}{_ENDING} and so on"
            raise ConfigError("answers", given, rule, remedy)
        return {names[0]: path}
    if not path.is_dir():
        raise ConfigError("answers", given, "is neither a file nor a folder", "Mend the path")
    files = {name: path / f"{name}{_ENDING}" for name in names}
    if missing := [file.name for file in files.values() if not file.is_file()]:
        remedy = "Put the answers there under these names, or name fewer in --benchmark"
        raise ConfigError("answers", given, f"has no {', no '.join(missing)}", remedy)
    return files


def read_answers(path: Path, asked: Sequence[Asked[Any]]) -> list[str | None]:
    """Return the answer to each question, None where there is none.

    Raises:
        DataError: a line is broken, or answers no question, or one that is answered already.
    """
    numbers_of: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(asked):
        numbers_of[str(one.id)].append(number)
    answers: list[str | None] = [None] * len(asked)
    others: list[tuple[str, str, str]] = []
    for place, row in read_json_lines(path):
        question_id = str(field(place, row, "question_id", (str, int)))
        text = field(place, row, "text", str)
        if question_id not in numbers_of:
            raise DataError(f"{place}: the question_id {question_id} is no question's. {_REMEDY}")
        waiting = [number for number in numbers_of[question_id] if answers[number] is None]
        same = [number for number in waiting if asked[number].prompt == row.get("prompt")]
        if same:
            answers[same[0]] = text
        else:
            others.append((place, question_id, text))
    for place, question_id, text in others:
        waiting = [number for number in numbers_of[question_id] if answers[number] is None]
        if not waiting:
            raise DataError(
                f"{place}: the question_id {question_id} has more answers than questions. {_REMEDY}"
            )
        answers[waiting[0]] = text
    return answers
