"""POPE: is an object in the image, yes or no; the mean F1 of three ways to choose the objects.

The rules of LLaVA's eval_pope.py, which the published scores come from, but for its join of
labels and questions: see Labels.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mobilellama.config import DataError
from mobilellama.files.json_lines import read_json_lines
from mobilellama.vlm.benchmarks.benchmark import (
    SHORT_ANSWER,
    Answers,
    Asked,
    Files,
    LlavaQuestion,
    Scores,
    field,
    find_files,
    letters_and_digits,
    on_one_line,
    percent,
    read_llava_questions,
    without_instruction,
)

CATEGORIES = ("adversarial", "popular", "random")
FILES: Files = {
    "questions": ("pope/llava_pope_test.jsonl",),
    **{name: (f"pope/coco/coco_pope_{name}.json",) for name in CATEGORIES},
    "images": ("pope/val2014",),
}


@dataclass(frozen=True, kw_only=True)
class Key:
    """Whether the object is in the image, and how it was chosen."""

    label: bool
    category: str


def questions(data: Path) -> list[Asked[Key]]:
    """Read LLaVA's questions and POPE's labels.

    Raises:
        ConfigError: a file is missing.
        DataError: a file is damaged, or the labels are not of these questions.
    """
    files = find_files(data, FILES)
    rows = read_llava_questions(files["questions"])
    labels = {name: Labels(files[name]) for name in CATEGORIES}
    asked = []
    for row in rows:
        if row.category not in labels:
            rule = f"the category {row.category} must be one of {', '.join(CATEGORIES)}"
            raise DataError(f"{row.place}: {rule}")
        key = Key(label=labels[row.category].take(row), category=row.category)
        asked.append(row.with_key(files["images"], key))
    for its in labels.values():
        its.require_all_taken(files["questions"])
    return asked


class Label(NamedTuple):
    """A line of POPE's file."""

    number: int
    place: str
    image: str
    text: str
    is_yes: bool

    def likeness(self, row: LlavaQuestion) -> tuple[int, bool]:
        """Return how near its image and text are to a question's of the same key.

        Images of one name lie in several folders, and questions differ in signs alone: C and C++.
        """
        pairs = zip(_parts(self.image), _parts(row.image), strict=False)
        folders = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        return folders, _with_signs(self.text) == _with_signs(row.text)


def _parts(image: str) -> Iterator[str]:
    """Return a path's parts, its name first."""
    return reversed(PurePosixPath(image).parts)


def _with_signs(text: str) -> str:
    return on_one_line(without_instruction(text))


class Labels:
    """The labels of a category, joined with its questions by image and question.

    The original joins by order, blindly. POPE asks six questions of every image, and other
    editions of its files have them in another order: joined by order, every label would be
    another question's. The two files number their questions differently, so ids join nothing.

    Args:
        path: POPE's file of the category.

    Raises:
        DataError: a line is damaged, or its label is neither yes nor no.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left: dict[tuple[str, str], list[Label]] = {}
        for number, (place, row) in enumerate(read_json_lines(path)):
            image, text = (field(place, row, name, str) for name in ("image", "text"))
            label = Label(number, place, image, text, _label(place, row))
            self._left.setdefault(_key(image, text), []).append(label)

    def take(self, row: LlavaQuestion) -> bool:
        """Return a question's label; where one is asked several times, each time the next.

        Raises:
            DataError: no label, or none that is left, is of this question, or it cannot be told
                which one is.
        """
        left = self._left.get(_key(row.image, row.text))
        what = f"for {without_instruction(row.text)!r} on {row.image}"
        if not left:
            how = "no label" if left is None else "no further label"
            raise DataError(f"{row.place}: {self._path} has {how} {what}; {_REMEDY}")
        nearest = max(label.likeness(row) for label in left)
        near = [label for label in left if label.likeness(row) == nearest]
        names = {(label.image, label.text) for label in near}
        if len(names) > 1 and len({label.is_yes for label in near}) > 1:
            first, *_, last = near
            both = f"{first.place} and {last.place} differ, but either may be the label {what}"
            raise DataError(f"{row.place}: {both}; {_REMEDY}")
        left.remove(near[0])
        return near[0].is_yes

    def require_all_taken(self, questions: Path) -> None:
        """Raise DataError if a label belongs to no question; name the first."""
        left = [label for its in self._left.values() for label in its]
        if left:
            place = min(left, key=lambda label: label.number).place
            what = f"{questions} has no question for this label ({len(left):,} such labels)"
            raise DataError(f"{place}: {what}; {_REMEDY}")


_REMEDY = "take both from the same edition, that of LLaVA's Evaluation.md"


def _key(image: str, text: str) -> tuple[str, str]:
    """Return the image's name without folders, and the question without LLaVA's instruction."""
    question = letters_and_digits(text).removesuffix(letters_and_digits(SHORT_ANSWER))
    return PurePosixPath(image).name, question


def _label(place: str, row: Mapping[str, object]) -> bool:
    label = field(place, row, "label", str)
    if (said := label.strip().lower()) not in ("yes", "no"):
        raise DataError(f"{place}: the label is {label!r}, and must be yes or no; {_REMEDY}")
    return said == "yes"


def says_yes(text: str) -> bool:
    """Return whether an answer counts as yes, by the original's words in their exact case.

    Up to the first dot, without commas, split at single spaces: "No", "not" or "no" among the
    words is no, and all else is yes: "NO", "nope", "no!" and the empty answer too.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & {*words}


def is_neither(text: str) -> bool:
    """Return whether an answer counts as yes although it does not say so in any spelling."""
    return says_yes(text) and "yes" not in re.findall(r"\w+", text.lower())


def score(asked: Sequence[Asked[Key]], answers: Answers) -> Scores:
    """Score with yes as the positive class; a missing answer is the wrong one."""
    counts = {name: Counter[str]() for name in CATEGORIES}
    for one, answer in zip(asked, answers, strict=True):
        said = (not one.key.label) if answer is None else says_yes(answer)
        counts[one.key.category][_outcome(said, one.key.label)] += 1
        counts[one.key.category]["neither"] += answer is not None and is_neither(answer)
    measured = {name: measures(its) for name, its in counts.items()}
    neither = sum(its["neither"] for its in counts.values())
    note = f"{neither:,} answers say neither yes nor no; as in the original, they count as yes."
    f1 = [its["F1"] for its in measured.values() if its["F1"] is not None]
    return Scores(
        score=sum(f1) / len(f1) if f1 else None,
        metric="mean F1 of the categories, %",
        questions=len(asked),
        unanswered=sum(answer is None for answer in answers),
        tables={"by choice of objects": measured},
        notes=(note,) if neither else (),
    )


def _outcome(said: bool, label: bool) -> str:
    return f"{'true' if said == label else 'false'} {'yes' if said else 'no'}"


def measures(counts: Counter[str]) -> dict[str, float | None]:
    """Return a category's percentages; None where the original would divide by zero."""
    true_yes, true_no = counts["true yes"], counts["true no"]
    false_yes, false_no = counts["false yes"], counts["false no"]
    total = true_yes + true_no + false_yes + false_no
    return {
        "questions": total,
        "accuracy": percent(true_yes + true_no, total),
        "precision": percent(true_yes, true_yes + false_yes),
        "recall": percent(true_yes, true_yes + false_no),
        # 2 P R / (P + R), written so that no true yes gives 0.
        "F1": percent(2 * true_yes, 2 * true_yes + false_yes + false_no),
        "yes": percent(true_yes + false_yes, total),
        "neither": counts["neither"],
    }
