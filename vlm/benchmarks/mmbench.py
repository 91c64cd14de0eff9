"""MMBench: choose one of up to four options; right only if right in every order of the options.

The dev file holds each question once with an index below a million, and again with its options
rotated, the index a million higher each time. MMBench's own rule counts a question only if the
right option is found in all of these rows; ``every row alone`` is the easier number beside it.

An option is read from an answer by the rules that MMBench tries first. Where they find none it
asks ChatGPT, or draws an option; here such an answer chooses nothing, always.
"""

import base64
import binascii
import csv
import io
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellama.config import DataError, one_line
from mobilellama.progress import format_count
from mobilellama.vlm.benchmarks.benchmark import (
    OPTION_LETTER,
    Answers,
    Asked,
    Files,
    Scores,
    accuracy_by,
    find_files,
    letters_and_digits,
    percent,
    with_image,
)

LETTERS = "ABCD"
ROTATION = 1_000_000
FILES: Files = {
    "questions": ("mmbench/mmbench_dev_en_20231003.tsv", "mmbench/mmbench_dev_20230712.tsv"),
}
# What pandas takes for an absent cell, and with it the original: an option "None" or "NA" too.
_ABSENT = frozenset(
    "#N/A #NA -1.#IND -1.#QNAN -NaN -nan 1.#IND 1.#QNAN <NA> N/A NA NULL n/a null".split()
) | {"", "#N/A N/A"}
_NOT_SUBMITTED = ("hint", "category", "source", "image", "comment", "l2-category")
_PREDICTION_COLUMN = 6

_ONE_TABLE = "take one edition's table as it is"

# How a letter may be wrapped, in the order in which the forms are tried.
_WRAPPED = (
    ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."),
    (":", ""), (":", ","), (":", "."), (":", ")"), (":", ")."),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Key:
    """A row's options and right letter, and what the row submits."""

    index: int
    options: Mapping[str, str]
    """Texts by letter."""
    answer: str
    """The right letter."""
    category: str
    ability: str
    """The column l2-category: one of six."""
    row: Mapping[str, str]
    """The columns that the converter keeps."""


def questions(data: Path) -> list[Asked[Key]]:
    """Read the published table.

    Raises:
        ConfigError: the file is missing.
        DataError: it is damaged, lacks a column, or has an index twice or for two questions.
    """
    path = find_files(data, FILES)["questions"]
    asked: list[Asked[Key]] = []
    places: dict[int, str] = {}
    texts: dict[int, str] = {}
    for place, row in read_table(path):
        one = _ask(place, row)
        index, base = one.key.index, one.key.index % ROTATION
        if (first := places.setdefault(index, place)) != place:
            raise DataError(f"{place}: has the index {index} again, after {first}; {_ONE_TABLE}")
        text = letters_and_digits(row["question"])
        if texts.setdefault(base, text) != text:
            what = f"the index {index} is a rotation of {base}, but the question is another"
            raise DataError(f"{place}: {what}; {_ONE_TABLE}")
        asked.append(one)
    if not asked:
        raise DataError(f"{path}: holds no question; download it again")
    return asked


def read_table(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (``FILE:row N``, row) of a table with tabs between its columns.

    Raises:
        DataError: a row has not as many cells as the first line has names.
    """
    limit = csv.field_size_limit(sys.maxsize)  # an image is one cell
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file, delimiter="\t"), 1):
                place = f"{path}:row {number}"
                if None in row or None in row.values():
                    raise DataError(f"{place}: the row is torn; download the file again")
                yield place, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {one_line(error)}; download the file again") from None
    finally:
        csv.field_size_limit(limit)


def _ask(place: str, row: dict[str, str]) -> Asked[Key]:
    for name in ("index", "question", "answer", "image", "A"):
        if is_absent(row.get(name)):
            raise DataError(f"{place}: has no {name}; take a dev file, which has the answers")
    if not row["index"].isdecimal():
        raise DataError(f"{place}: the index {row['index']} is not a number; download it again")
    options = options_until_the_first_absent(row)
    if row["answer"] not in {*LETTERS}:
        raise DataError(f"{place}: the answer {row['answer']} is not a letter; download it again")
    try:
        image = base64.b64decode(row["image"], validate=True)
    except binascii.Error as error:
        what = f"the image is not base64 ({one_line(error)})"
        raise DataError(f"{place}: {what}; download the file again") from None
    lines = [] if is_absent(row.get("hint")) else [row["hint"]]
    lines += [row["question"], *(f"{letter}. {text}" for letter, text in options.items())]
    prompt = "\n".join(lines)
    return Asked(
        id=int(row["index"]),
        images=(image,),
        text=f"{with_image(prompt)}\n{OPTION_LETTER}",
        prompt=prompt,
        key=Key(
            index=int(row["index"]),
            options={letter: row[letter] for letter in LETTERS if not is_absent(row.get(letter))},
            answer=row["answer"],
            category=row.get("category", ""),
            ability=row.get("l2-category", ""),
            row={name: cell for name, cell in row.items() if name not in _NOT_SUBMITTED},
        ),
    )


def is_absent(cell: str | None) -> bool:
    """Return whether a cell holds nothing, as the original reads it."""
    return cell is None or cell in _ABSENT or cell.lower() in ("nan", "none")


def options_until_the_first_absent(row: Mapping[str, str]) -> dict[str, str]:
    """Return the options that the prompt lists: A to D, up to the first that is absent."""
    options = {}
    for letter in LETTERS:
        if is_absent(row.get(letter)):
            break
        options[letter] = row[letter]
    return options


def option_of(text: str, options: Mapping[str, str]) -> str | None:
    """Return the letter that an answer chooses; None where that cannot be told.

    Args:
        text: the answer.
        options: the options' texts by letter.
    """
    return letter_among_words(text) or only_option_in(text, options)


def letter_among_words(text: str) -> str | None:
    """Return the one letter of A to E that stands alone, or is wrapped as in "B." or "(B)".

    With "A" among more than three words it may be an article, and only wrapped letters count.
    """
    words = set(text.split())
    article = "A" in words and len(text.split()) > 3
    for before, after in (("", ""), *_WRAPPED):
        found = [letter for letter in (*LETTERS, "E") if f"{before}{letter}{after}" in words]
        if len(found) == 1 and not (article and not before and not after):
            return found[0]
    return None


def only_option_in(text: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of the option whose text the answer holds, if just one is held."""
    found = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return found[0] if len(found) == 1 else None


def score(asked: Sequence[Asked[Key]], answers: Answers) -> Scores:
    """Score by question over its rotations, and by row; what chooses nothing is wrong."""
    chosen = [
        None if answer is None else option_of(answer, one.key.options)
        for one, answer in zip(asked, answers, strict=True)
    ]
    keys = [one.key for one in asked]
    right = [letter == key.answer for letter, key in zip(chosen, keys, strict=True)]
    whole = right_in_every_rotation(keys, right)
    mains = [key for key in keys if key.index in whole]
    every = [whole[key.index] for key in mains]
    unread = sum(a is not None and c is None for a, c in zip(answers, chosen, strict=True))
    return Scores(
        score=percent(sum(every), len(every)),
        metric="accuracy of questions in every rotation, %",
        questions=len(asked),
        unanswered=sum(answer is None for answer in answers),
        tables={
            "by rule": accuracy_by(["every rotation"] * len(every), every)
            | accuracy_by(["every row alone"] * len(right), right),
            "by ability": accuracy_by([key.ability for key in mains], every),
            "by category": accuracy_by([key.category for key in mains], every),
        },
        notes=(
            *([f"No option could be read from {unread} answers."] if unread else []),
            *missing_rotations(keys),
        ),
    )


def missing_rotations(keys: Sequence[Key]) -> list[str]:
    """Return what makes a table another measure than the published: rows that it lacks.

    Published tables have a row for each option of a question. With fewer, as in tables of
    questions without rotations, a right answer is easier to come by.
    """
    rows = Counter(key.index % ROTATION for key in keys)
    mains = {key.index: key for key in keys if key.index < ROTATION}
    short = sum(rows[index] < len(key.options) for index, key in mains.items())
    alone = sum(count for base, count in rows.items() if base not in mains)
    notes = []
    if short:
        what = f"{short:,} of {len(mains):,} questions have fewer rows than options"
        notes.append(f"Not comparable with the published scores: {what}.")
    if alone:
        what = f"{format_count(alone, 'row')} of questions whose first row the table lacks"
        notes.append(f"Counted in 'every row alone' only: {what}.")
    return notes


def right_in_every_rotation(keys: Sequence[Key], right: Sequence[bool]) -> dict[int, bool]:
    """Return by index whether a question is right in all its rows.

    Rows whose question has no row of an index below a million count for nothing, as in the
    original.
    """
    whole = {key.index: True for key in keys if key.index < ROTATION}
    for key, hit in zip(keys, right, strict=True):
        base = key.index % ROTATION
        if base in whole:
            whole[base] &= hit
    return whole


def submission(asked: Sequence[Asked[Key]], answers: Answers) -> Mapping[str, bytes]:
    """Return the converter's table, as tab-separated text where it writes xlsx."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    names = list(asked[0].key.row)
    names.insert(_PREDICTION_COLUMN, "prediction")
    writer.writerow(names)
    for one, answer in zip(asked, answers, strict=True):
        row = {**one.key.row, "prediction": answer or ""}
        writer.writerow([row[name] for name in names])
    return {"mmbench.tsv": text.getvalue().encode()}
