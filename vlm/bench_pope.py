"""POPE: is an object in the image, yes or no; the mean F1 of three ways to choose the objects.

The rules of LLaVA's eval_pope.py, which the published scores come from. Labels are joined with
the questions of a category by their order alone: the two files number them differently.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellama.config import DataError
from mobilellama.files import read_json_lines
from mobilellama.vlm.benchmark import (
    Answers,
    Asked,
    Files,
    LlavaQuestion,
    Scores,
    field,
    find_files,
    percent,
    read_llava_questions,
    with_image,
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
    labels = {name: iter(labels_in_order(files[name], rows, name)) for name in CATEGORIES}
    asked = []
    for row in rows:
        if row.category not in labels:
            rule = f"the category {row.category} is none of {', '.join(CATEGORIES)}"
            raise DataError(f"{row.place}: {rule}")
        asked.append(
            Asked(
                id=row.id,
                images=(files["images"] / row.image,),
                text=with_image(row.text),
                prompt=row.text,
                key=Key(label=next(labels[row.category]), category=row.category),
            )
        )
    return asked


def labels_in_order(path: Path, rows: Sequence[LlavaQuestion], category: str) -> list[bool]:
    """Return the labels of a category's questions, joined by order, not by id.

    The original joins blindly, up to the shorter of the two. POPE's files have changed since,
    and labels of another edition would be taken for answers: here the images must be the same.

    Raises:
        DataError: the labels are not of these questions.
    """
    mine = [row for row in rows if row.category == category]
    labels = list(read_json_lines(path))
    remedy = "take both from the same edition, that of LLaVA's Evaluation.md"
    if len(labels) != len(mine):
        what = f"has {len(labels)} labels for {len(mine)} questions"
        raise DataError(f"{path}: {what}; {remedy}")
    for row, (place, label) in zip(mine, labels, strict=True):
        image = label.get("image", row.image)
        if image != row.image:
            what = f"is a label of {image}, and the question at {row.place} is about {row.image}"
            raise DataError(f"{place}: {what}; {remedy}")
    # As in the original: whatever is not "no" is "yes".
    return [field(place, label, "label", str) != "no" for place, label in labels]


def says_yes(text: str) -> bool:
    """Return whether an answer counts as yes, by the original's words in their exact case.

    Up to the first dot, without commas, split at single spaces: "No", "not" or "no" among the
    words is no, and all else is yes: "NO", "nope", "no!" and the empty answer too.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & {*words}


def score(asked: Sequence[Asked[Key]], answers: Answers) -> Scores:
    """Score with yes as the positive class; a missing answer is the wrong one."""
    counts = {name: Counter[str]() for name in CATEGORIES}
    for one, answer in zip(asked, answers, strict=True):
        said = (not one.key.label) if answer is None else says_yes(answer)
        counts[one.key.category][_outcome(said, one.key.label)] += 1
    measured = {name: measures(its) for name, its in counts.items()}
    f1 = [its["F1"] for its in measured.values() if its["F1"] is not None]
    return Scores(
        score=sum(f1) / len(f1) if f1 else None,
        metric="mean F1 of the categories, %",
        questions=len(asked),
        unanswered=sum(answer is None for answer in answers),
        tables={"by choice of objects": measured},
    )


def _outcome(said: bool, label: bool) -> str:
    return f"{'true' if said == label else 'false'} {'yes' if said else 'no'}"


def measures(counts: Counter[str]) -> dict[str, Any]:
    """Return a category's percentages; None where the original would divide by zero."""
    true_yes, true_no = counts["true yes"], counts["true no"]
    false_yes, false_no = counts["false yes"], counts["false no"]
    total = counts.total()
    return {
        "questions": total,
        "accuracy": percent(true_yes + true_no, total),
        "precision": percent(true_yes, true_yes + false_yes),
        "recall": percent(true_yes, true_yes + false_no),
        # 2 P R / (P + R), written so that no true yes gives 0.
        "F1": percent(2 * true_yes, 2 * true_yes + false_yes + false_no),
        "yes": percent(true_yes + false_yes, total),
    }
