"""TextVQA: read what is written in the image; soft accuracy over ten people's answers.

The rules of LLaVA's eval_textvqa.py and of the evaluator behind it, on the validation set 0.5.1.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellama.config import DataError
from mobilellama.vlm.benchmarks.benchmark import (
    Answers,
    Asked,
    Files,
    Scores,
    accuracy_by,
    field,
    find_files,
    percent,
    read_json_file,
    read_llava_questions,
    require_own_image,
)
from mobilellama.vlm.benchmarks.vqa_normaliser import normalise

PEOPLE = 10
FILES: Files = {
    "questions": ("textvqa/llava_textvqa_val_v051_ocr.jsonl",),
    "annotations": ("textvqa/TextVQA_0.5.1_val.json",),
    "images": ("textvqa/train_images", "textvqa/train_val_images/train_images"),
}
_OCR = "Reference OCR token:"
_OLDER_PROMPT = re.compile(r"Question: (.*?) Short answer:", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Key:
    """What ten people answered."""

    answers: tuple[str, ...]
    has_ocr: bool
    """Whether the prompt gives the words that a text recogniser has found."""


def questions(data: Path) -> list[Asked[Key]]:
    """Read LLaVA's questions and TextVQA's annotations.

    Raises:
        ConfigError: a file is missing.
        DataError: a file is damaged, or a question has no annotation.
    """
    files = find_files(data, FILES)
    annotations = read_annotations(files["annotations"])
    asked = []
    for row in read_llava_questions(files["questions"]):
        require_own_image(row.place, row.image, str(row.id))
        question = question_in_prompt(row.text)
        if question is None:
            what = "the text is not a question and an instruction, with OCR tokens between them"
            raise DataError(f"{row.place}: {what}; download the file again")
        answers = annotations.get((str(row.id), question))
        if answers is None:
            what = f"image {row.id} has no question {question!r} in {files['annotations']}"
            raise DataError(f"{row.place}: {what}; take the files of one edition")
        key = Key(answers=answers, has_ocr=f"{_OCR} " in row.text)
        asked.append(row.with_key(files["images"], key))
    return asked


def read_annotations(path: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    """Read the ten answers by image and question in lower case; of equal ones the last counts.

    Raises:
        DataError: an annotation is broken, or has not ten answers.
    """
    rows = field(str(path), read_json_file(path, dict), "data", list)
    annotations = {}
    for number, row in enumerate(rows):
        place = f"{path}, data[{number}]"
        if not isinstance(row, dict):
            raise DataError(f"{place}: must be an object; download the file again")
        answers = tuple(map(str, field(place, row, "answers", list)))
        if len(answers) != PEOPLE:
            what = f"has {len(answers)} answers, but the rule needs {PEOPLE}"
            raise DataError(f"{place}: {what}; take the validation set")
        image = str(field(place, row, "image_id", (str, int)))
        annotations[image, field(place, row, "question", str).lower()] = answers
    return annotations


def question_in_prompt(prompt: str) -> str | None:
    """Return the question in lower case, found in a prompt as the original finds it.

        question / instruction
        question / Reference OCR token: ... / instruction
        Reference OCR token: ... / question / instruction
        OCR tokens: ... Question: question Short answer:

    None where the prompt is nothing of these.
    """
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: "):
        match = _OLDER_PROMPT.search(prompt)
        return match[1].lower() if match else None
    if f"{_OCR} " in prompt and len(lines) == 3:
        return lines[1 if prompt.startswith(_OCR) else 0].lower()
    return lines[0].lower() if len(lines) == 2 else None


def worth_by_leaving_one_out(answers: Sequence[str]) -> dict[str, float]:
    """Return what each distinct normalised answer is worth, from 0 to 1.

    Each person in turn is left out, and the answer is worth a third for each of the others who
    gave it, at most 1; the mean of these is 0.3, 0.6, 0.9 and 1 for one, two, three and more
    people.
    """
    counts = Counter(map(normalise, answers))
    return {
        answer: (
            count * min(1.0, (count - 1) / 3) + (len(answers) - count) * min(1.0, count / 3)
        ) / len(answers)
        for answer, count in counts.items()
    }  # fmt: skip


def score(asked: Sequence[Asked[Key]], answers: Answers) -> Scores:
    """Return the mean worth of the answers."""
    worth = [
        0.0
        if answer is None
        else worth_by_leaving_one_out(one.key.answers).get(normalise(answer), 0.0)
        for one, answer in zip(asked, answers, strict=True)
    ]
    kinds = ["with OCR tokens" if one.key.has_ocr else "without" for one in asked]
    return Scores(
        score=percent(sum(worth), len(worth)),
        metric="soft accuracy, %",
        questions=len(asked),
        unanswered=sum(answer is None for answer in answers),
        tables={"by prompt": accuracy_by(kinds, worth)},
    )
