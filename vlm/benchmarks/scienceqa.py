"""ScienceQA: choose one of up to five options; accuracy on the test questions that have an image.

The rules of LLaVA's eval_science_qa.py, which the published scores come from. Its images are
cropped to their middle by MobileVLM's script, where the model's own setting would pad them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellama.config import DataError
from mobilellama.vlm.benchmarks.benchmark import (
    OPTION_LETTER,
    Answers,
    Asked,
    Files,
    Scores,
    accuracy_by,
    field,
    find_files,
    letters_and_digits,
    percent,
    read_json_file,
    require_own_image,
    with_image,
)

LETTERS = "ABCDE"
FILES: Files = {
    "questions": ("scienceqa/llava_test_CQM-A.json", "sqa/llava_test_CQM-A.json"),
    "problems": ("scienceqa/problems.json", "sqa/problems.json"),
    "splits": ("scienceqa/pid_splits.json", "sqa/pid_splits.json"),
    "images": ("scienceqa/images/test", "sqa/images/test"),
}
# Any letter, then any character: "The answer is B" at the end is none, "The answer is But" is B.
_THE_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")


@dataclass(frozen=True, kw_only=True)
class Key:
    """A problem's right option, and what it is about."""

    right: int
    """Number of the right option, from 0."""
    choices: int
    """How many options there are."""
    subject: str
    grade: str


def questions(data: Path) -> list[Asked[Key]]:
    """Read LLaVA's questions and ScienceQA's problems.

    Raises:
        ConfigError: a file is missing.
        DataError: a file is damaged, or a question is no problem of the test split.
    """
    files = find_files(data, FILES)
    problems = read_json_file(files["problems"], dict)
    split = {*map(str, field(str(files["splits"]), read_splits(files["splits"]), "test", list))}
    rows = read_json_file(files["questions"], list)
    if not rows:
        raise DataError(f"{files['questions']}: is empty; download it again")
    asked, places = [], dict[str, str]()
    for number, row in enumerate(rows):
        place = f"{files['questions']}[{number}]"
        if not isinstance(row, dict):
            raise DataError(f"{place}: must be an object; download the file again")
        id_ = str(field(place, row, "id", (str, int)))
        if id_ not in split or not isinstance(problems.get(id_), dict):
            what = f"the problem {id_} is not in the test split of {files['problems']}"
            raise DataError(f"{place}: {what}; take the files of one edition")
        key = _key(f"{files['problems']}, problem {id_}", problems[id_])
        image = None if row.get("image") is None else field(place, row, "image", str)
        prompt = _prompt(place, row, has_image=image is not None)
        require_same_problem(place, prompt, problems[id_])
        if (first := places.setdefault(id_, place)) != place:
            raise DataError(f"{place}: asks the problem {id_} again, after {first}")
        if image is not None:
            require_own_image(place, image, id_)
        images = () if image is None else (files["images"] / image,)
        asked.append(Asked(id=id_, images=images, text=prompt, prompt=prompt, key=key))
    return asked


def read_splits(path: Path) -> dict[str, object]:
    """Read pid_splits.json: the problems' ids by split."""
    return read_json_file(path, dict)


def _key(place: str, problem: dict[str, object]) -> Key:
    key = Key(
        right=field(place, problem, "answer", int),
        choices=len(field(place, problem, "choices", list)),
        subject=str(problem.get("subject")),
        grade=str(problem.get("grade")),
    )
    if not 0 <= key.right < min(key.choices, len(LETTERS)):
        what = f"the answer {key.right} is not one of its {key.choices} choices, or is beyond E"
        raise DataError(f"{place}: {what}; download the file again")
    return key


def require_same_problem(place: str, prompt: str, problem: Mapping[str, object]) -> None:
    """Raise DataError unless a prompt holds a problem's question, and its options in their order.

    Of options in another order, the right letter would be another's.
    """
    choices = [*map(str, field(place, problem, "choices", list))]
    listed = " ".join(f"({letter}) {text}" for letter, text in zip(LETTERS, choices, strict=False))
    # Options may differ in signs alone: 5 and -5.
    has_alike = len({*map(letters_and_digits, choices)}) < len(choices)
    kinds = (
        ("question", str(problem.get("question", "")), letters_and_digits),
        ("options", listed, _without_spaces if has_alike else letters_and_digits),
    )
    for name, wanted, of_text in kinds:
        if of_text(wanted) not in of_text(prompt):
            what = f"the text {prompt!r} does not hold the problem's {name}, {wanted!r}"
            raise DataError(f"{place}: {what}; take the files of one edition")


def _without_spaces(text: str) -> str:
    return "".join(text.split())


def _prompt(place: str, row: dict[str, object], *, has_image: bool) -> str:
    """Return the problem's text, ``<image>`` before it, the instruction behind it."""
    turns = field(place, row, "conversations", list)
    first = turns[0] if turns and isinstance(turns[0], dict) else {}
    text = field(place, first, "value", str).replace("<image>", "").strip()
    return f"{with_image(text) if has_image else text}\n{OPTION_LETTER}"


def letter_of(text: str) -> str | None:
    """Return the letter that an answer chooses by the original's three readings; None: none.

        "B"                      a letter alone
        "B. because ..."         a letter, a dot and a space at the start
        "... The answer is B."   these words once, and any character after the letter

    So "B." and "(B)" choose nothing, nor does "The answer is B" where the answer ends.
    """
    if text in LETTERS and len(text) == 1:
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    found = _THE_ANSWER_IS.findall(text)
    return found[0] if len(found) == 1 else None


def score(asked: Sequence[Asked[Key]], answers: Answers) -> Scores:
    """Score all questions, and those whose prompt holds ``<image>``: the published number.

    As in the original, a question without an answer is wrong, and counts as one without image.
    """
    right = [
        answer is not None and letter_of(answer) == LETTERS[one.key.right]
        for one, answer in zip(asked, answers, strict=True)
    ]
    shown = [
        answer is not None and "<image>" in one.prompt
        for one, answer in zip(asked, answers, strict=True)
    ]
    unread = sum(answer is not None and letter_of(answer) is None for answer in answers)
    kinds = ["with image" if image else "text only" for image in shown]
    keys = [one.key for one in asked]
    return Scores(
        score=percent(sum(r for r, image in zip(right, shown, strict=True) if image), sum(shown)),
        metric="accuracy of questions with an image, %",
        questions=len(asked),
        unanswered=sum(answer is None for answer in answers),
        tables={
            "by image": accuracy_by(kinds, right) | accuracy_by(["all"] * len(right), right),
            "by subject": accuracy_by([key.subject for key in keys], right),
            "by grade": accuracy_by([key.grade for key in keys], right),
        },
        notes=(f"No option could be read from {unread} answers.",) if unread else (),
    )
