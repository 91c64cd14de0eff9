"""Answers that were made elsewhere, in the files that LLaVA's and MobileVLM's scripts write.

    {"question_id": ..., "prompt": "...", "text": "the answer", ...}      a line a question

"finish" is read too where 'vlm evaluate' has written it: it tells which answers were cut off.

Order is not trusted: a line belongs to the question of its id and its prompt, and where the same
is asked several times, to the next of them. A line whose prompt (or image, where it names one) is
another's than the question of its id says that the file was made for other questions: it is
refused. Where several questions have one id, as TextVQA's and MME's do, a line needs its prompt.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from mobilellama.config import ConfigError, DataError
from mobilellama.files.json_lines import read_json_lines
from mobilellama.vlm.benchmarks.benchmark import (
    OPTION_LETTER,
    SHORT_ANSWER,
    Asked,
    field,
    letters_and_digits,
    on_one_line,
)
from mobilellama.vlm.chat.question import FINISHES, Reply
from mobilellama.vlm.data.records import IMAGE_TEXT

log = logging.getLogger(__name__)

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
            remedy = f"Name one --tasks, or give a folder of {names[0]}{_ENDING} and so on"
            raise ConfigError("answers", given, rule, remedy)
        return {names[0]: path}
    if not path.is_dir():
        raise ConfigError("answers", given, "is neither a file nor a folder", "Fix the path")
    files = {name: path / f"{name}{_ENDING}" for name in names}
    if missing := [file.name for file in files.values() if not file.is_file()]:
        remedy = "Put the answers there under these names, or name fewer in --tasks"
        raise ConfigError("answers", given, f"has no {', no '.join(missing)}", remedy)
    return files


def read_answers(path: Path, asked: Sequence[Asked[object]]) -> list[Reply | None]:
    """Return the answer to each question, None where there is none.

    Raises:
        DataError: a line is broken, or answers no question, or one that is answered already.
    """
    numbers_of: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(asked):
        numbers_of[str(one.id)].append(number)
    answers: list[Reply | None] = [None] * len(asked)
    without_prompt = 0
    for place, row in read_json_lines(path):
        question_id = str(field(place, row, "question_id", (str, int)))
        text = field(place, row, "text", str)
        if question_id not in numbers_of:
            raise DataError(f"{place}: no question has the question_id {question_id}. {_REMEDY}")
        mine = _of_this_prompt(place, row, {n: asked[n] for n in numbers_of[question_id]})
        waiting = [number for number in mine if answers[number] is None]
        if not waiting:
            what = f"the question_id {question_id} has more answers than questions"
            raise DataError(f"{place}: {what}. {_REMEDY}")
        require_same_image(place, row, asked[waiting[0]])
        finish = row.get("finish")
        # Other scripts' words tell nothing.
        answers[waiting[0]] = Reply(text=text, finish=finish if finish in FINISHES else None)
        without_prompt += row.get("prompt") is None
    if without_prompt:
        log.warning(
            "%s: %s lines have no prompt, and are joined by question_id alone. They may be answers "
            "to other questions", path, f"{without_prompt:,}",
        )  # fmt: skip
    return answers


def _of_this_prompt(
    place: str, row: Mapping[str, object], candidates: Mapping[int, Asked[object]]
) -> list[int]:
    """Return the numbers of the questions of one id that a line answers: those of its prompt.

    Other scripts log the prompt with ``<image>``, a chat template or another instruction around
    the question, so that one which holds the question is taken too.

    Raises:
        DataError: it has the prompt of another question, or none where there are several.
    """
    prompt = row.get("prompt")
    if prompt is None:
        if len({one.prompt for one in candidates.values()}) > 1:
            what = f"{len(candidates)} questions have the question_id {row['question_id']}"
            raise DataError(f"{place}: {what}, but the line has no prompt to tell them apart")
        return [*candidates]
    said = field(place, row, "prompt", str)
    if same := [number for number, one in candidates.items() if one.prompt == said]:
        return same
    bare = {n: bare_question(one.prompt) for n, one in candidates.items()}
    line, letters = on_one_line(said), letters_and_digits(bare_question(said))
    # With its signs: without them, "Is it red?" would lie in "Is it red or blue?".
    held = [
        number
        for number, text in bare.items()
        if on_one_line(text) in line or letters_and_digits(text) == letters
    ]
    if not held:
        other = next(iter(candidates.values())).prompt
        what = f"answers {row['prompt']!r}, but the question {row['question_id']} is {other!r}"
        raise DataError(f"{place}: {what}. {_REMEDY}")
    longest = max(len(bare[number]) for number in held)  # "Is it red?" lies in "Is it red? ..."
    return [number for number in held if len(bare[number]) == longest]


def bare_question(prompt: str) -> str:
    """Return a prompt without ``<image>`` and the originals' instructions."""
    for part in (IMAGE_TEXT, SHORT_ANSWER, OPTION_LETTER):
        prompt = prompt.replace(part, "")
    return prompt.strip()


def require_same_image(place: str, row: Mapping[str, object], one: Asked[object]) -> None:
    """Raise DataError where a line names an image, and the question is about another."""
    image = row.get("image")
    names = [path.name for path in one.images if isinstance(path, Path)]
    if isinstance(image, str) and names and PurePosixPath(image).name not in names:
        what = f"is an answer about {image}, but the question {one.id} is about {names[0]}"
        raise DataError(f"{place}: {what}. {_REMEDY}")
