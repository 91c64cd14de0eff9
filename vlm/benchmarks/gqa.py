"""GQA: short answers about scenes; accuracy on the balanced test-dev split.

The rule of LLaVA's converter and GQA's own eval.py: an answer without dots at its end, in lower
case, must equal the right one letter by letter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import orjson

from mobilellama.config import DataError
from mobilellama.vlm.benchmarks.benchmark import (
    Answers,
    Asked,
    Files,
    LlavaQuestion,
    Scores,
    accuracy_by,
    field,
    find_files,
    letters_and_digits,
    percent,
    read_json_file,
    read_llava_questions,
    without_instruction,
)

FILES: Files = {
    "questions": ("gqa/llava_gqa_testdev_balanced.jsonl",),
    "key": (
        "gqa/testdev_balanced_questions.json",
        "gqa/data/testdev_balanced_questions.json",
        "gqa/data/questions1.2/testdev_balanced_questions.json",
        "gqa/data/questions/testdev_balanced_questions.json",
    ),
    "images": ("gqa/images", "gqa/data/images"),
}


@dataclass(frozen=True, kw_only=True)
class Key:
    """A question's right answer and kinds."""

    answer: str
    structural: str
    """query, verify, logical, choose or compare; "query" alone is open, the others binary."""
    semantic: str
    """obj, attr, cat, rel or global."""


def questions(data: Path) -> list[Asked[Key]]:
    """Read LLaVA's questions and GQA's answers.

    Raises:
        ConfigError: a file is missing.
        DataError: a file is damaged, or a question has no answer.
    """
    files = find_files(data, FILES)
    known = read_json_file(files["key"], dict)
    asked, places = [], dict[str, str]()
    for row in read_llava_questions(files["questions"]):
        entry = known.get(str(row.id))
        if not isinstance(entry, dict):
            raise DataError(f"{row.place}: the question {row.id} is not in {files['key']}")
        require_same_question(row, entry, files["key"])
        if (first := places.setdefault(str(row.id), row.place)) != row.place:
            raise DataError(f"{row.place}: asks the question {row.id} again, after {first}")
        place = f"{files['key']}, question {row.id}"
        kinds = entry.get("types")
        kinds = kinds if isinstance(kinds, dict) else {}
        key = Key(
            answer=field(place, entry, "answer", str),
            structural=str(kinds.get("structural")),
            semantic=str(kinds.get("semantic")),
        )
        asked.append(row.with_key(files["images"], key))
    return asked


def require_same_question(row: LlavaQuestion, entry: Mapping[str, object], path: Path) -> None:
    """Raise DataError where an answer's text or image is another than its question's."""
    remedy = "take the files of one edition"
    text = entry.get("question")
    if isinstance(text, str) and letters_and_digits(text) != letters_and_digits(
        without_instruction(row.text)
    ):
        what = f"the question {row.id} is {text!r} in {path}, but {row.text!r} here"
        raise DataError(f"{row.place}: {what}; {remedy}")
    image = entry.get("imageId")
    if image is not None and str(image) != PurePosixPath(row.image).stem:
        what = f"the question {row.id} is about the image {image} in {path}"
        raise DataError(f"{row.place}: {what}, but about {row.image} here; {remedy}")


def without_dots_in_lower_case(text: str) -> str:
    """Return an answer as the converter leaves it: "No..." gives "no", and "no. " keeps its dot."""
    return text.rstrip(".").lower()


def score(asked: Sequence[Asked[Key]], answers: Answers) -> Scores:
    """Score by equality with the right answer: "t-shirt" is not "tshirt", nor "left," "left"."""
    right = [
        answer is not None and without_dots_in_lower_case(answer) == one.key.answer
        for one, answer in zip(asked, answers, strict=True)
    ]
    keys = [one.key for one in asked]
    opens = ["open" if key.structural == "query" else "binary" for key in keys]
    return Scores(
        score=percent(sum(right), len(right)),
        metric="accuracy, %",
        questions=len(asked),
        unanswered=sum(answer is None for answer in answers),
        tables={
            "by form": accuracy_by(opens, right),
            "by structure": accuracy_by([key.structural for key in keys], right),
            "by subject": accuracy_by([key.semantic for key in keys], right),
        },
    )


def submission(asked: Sequence[Asked[Key]], answers: Answers) -> Mapping[str, bytes]:
    """Return the file that GQA's own eval.py reads; unanswered questions are empty texts."""
    rows = [
        {"questionId": one.id, "prediction": without_dots_in_lower_case(answer or "")}
        for one, answer in zip(asked, answers, strict=True)
    ]
    return {"testdev_balanced_predictions.json": orjson.dumps(rows)}
