"""What the benchmarks have in common: questions, scores, and the files they come from.

A benchmark is two pure functions and a few facts: ``questions(folder)`` reads its published files,
``score(asked, answers)`` scores answers that lie in the order of the questions.

Published questions and published answers lie in different files, and other editions of them have
another order. So nothing is joined by its place in a file:

    GQA         question id; its text and its image must be the same
    ScienceQA   problem id; question, options and image must be the same
    TextVQA     image id and question; the image must be of this id
    POPE        category, image and question
    MME         category, image and question; an image's two questions are a pair
    MMBench     one table; rotations of a question by its index, and they ask the same
    answers     question id and prompt (answer_files.py): ids alone are not unique, TextVQA's are
                those of images, and MME asks two questions under each
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

from mobilellama.config import ConfigError, DataError
from mobilellama.files.json_lines import read_document, read_json_lines
from mobilellama.vlm.chat.question import AspectRatio

Key = TypeVar("Key")
KeyOut = TypeVar("KeyOut", covariant=True)
Kind = TypeVar("Kind")
Outermost = TypeVar("Outermost", dict, list)

SHORT_ANSWER = "Answer the question using a single word or phrase."
OPTION_LETTER = "Answer with the option's letter from the given choices directly."
_IMAGE_LINE = "<image>\n"
_NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")

Answers = Sequence[str | None]
"""One for each question, in their order; None where there is none, which counts as wrong."""

Table = Mapping[str, Mapping[str, float | int | None]]
"""Row by name, value by column: counts, percentages, points; None where nothing was asked."""

Files = Mapping[str, tuple[str, ...]]
"""What each file is for, and where it may lie under --data: any one of these."""


@dataclass(frozen=True, kw_only=True)
class Asked(Generic[KeyOut]):
    """A question as the model gets it, and what scores its answer."""

    id: str | int
    """The published one; not unique in every benchmark."""
    images: tuple[Path | bytes, ...]
    """Files, or an encoded image's bytes."""
    text: str
    """What the user says, ``<image>`` in it once for each image."""
    prompt: str
    """What the original scripts log as the prompt, and their scorers read."""
    key: KeyOut
    """Of the benchmark's own kind: the right answer, the category."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a benchmark's answers are worth."""

    score: float | None
    """The number that papers print; None where nothing could be scored."""
    metric: str
    """What that number is, its unit included."""
    questions: int
    unanswered: int
    """Questions without an answer; they count as wrong."""
    tables: Mapping[str, Table]
    """By title."""
    notes: tuple[str, ...] = ()
    """What a reader must know beside the numbers."""
    answers: Mapping[str, int | None] | None = None
    """How many were asked for, and how many are empty, cut off or missing; see judge.py."""
    incomplete: str | None = None
    """Why the score is marked or withheld; None: it is neither."""
    withheld: bool = False
    """Whether score and tables are withheld."""


@dataclass(frozen=True, kw_only=True)
class Benchmark(Generic[Key]):
    """One benchmark: where its files lie, how it asks and scores."""

    title: str
    """As papers write it."""
    files: Files
    questions: Callable[[Path], list[Asked[Key]]]
    """Reads the files under --data.

    Raises ConfigError where one is missing, DataError where one is damaged."""
    score: Callable[[Sequence[Asked[Key]], Answers], Scores]
    submission: Callable[[Sequence[Asked[Key]], Answers], Mapping[str, bytes]] | None = None
    """The files that the original converters make, by name."""
    max_new_tokens: int
    """The original scripts' limit of an answer."""
    aspect_ratio: AspectRatio | None = None
    """Where the original does not treat images as the model's own setting says."""


def percent(part: float, whole: float) -> float | None:
    """Return 100 * part / whole; None where the whole is nothing."""
    return 100 * part / whole if whole else None


def accuracy_by(
    groups: Sequence[str], right: Sequence[float]
) -> dict[str, dict[str, float | None]]:
    """Return how many questions each group has, and the percentage that is right, by name.

    Args:
        groups: each question's.
        right: each question's worth, from 0 to 1.
    """
    asked, worth = Counter(groups), dict.fromkeys(groups, 0.0)
    for group, value in zip(groups, right, strict=True):
        worth[group] += value
    return {
        name: {"questions": asked[name], "accuracy": percent(worth[name], asked[name])}
        for name in sorted(asked)
    }


def find_files(data: Path, files: Files) -> dict[str, Path]:
    """Return the path of each file or folder.

    Raises:
        ConfigError: some are missing; the message names them all.
    """
    require_files(data, [files])
    return {name: _first(data, places) for name, places in files.items()}


def require_files(data: Path, several: Sequence[Files]) -> None:
    """Raise ConfigError unless every file of these benchmarks is there; name all that are not."""
    if not data.is_dir():
        raise ConfigError("data", str(data), "is not a folder", _LAYOUT)
    missing = [
        " or ".join(places)
        for files in several
        for places in files.values()
        if not any((data / place).exists() for place in places)
    ]
    if missing:
        raise ConfigError("data", str(data), f"has no {', no '.join(missing)}", _LAYOUT)


_LAYOUT = "See 'mobilellama vlm evaluate --help' for the layout"


def _first(data: Path, places: Sequence[str]) -> Path:
    return next(data / place for place in places if (data / place).exists())


def read_json_file(path: Path, kind: type[Outermost]) -> Outermost:
    """Read a published JSON file.

    Raises:
        DataError: it is not JSON, or its outermost value is of another kind.
    """
    value = read_document(path)
    if not isinstance(value, kind):
        name = "an object" if kind is dict else "a list"
        raise DataError(f"{path}: must hold {name}; download it again")
    return value


def field(
    place: str, row: Mapping[str, object], name: str, kind: type[Kind] | tuple[type[Kind], ...]
) -> Kind:
    """Return a row's field.

    Raises:
        DataError: the row lacks it, or it is of another kind.
    """
    value = row.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(each.__name__ for each in kinds)
        found = "is missing" if name not in row else f"is a {type(value).__name__}"
        raise DataError(f"{place}: the field '{name}' {found}; it must be of type {wanted}")
    return value


@dataclass(frozen=True, kw_only=True)
class LlavaQuestion:
    """A line of LLaVA's question files."""

    place: str
    """``FILE:LINE``."""
    id: str | int
    image: str
    """Below the benchmark's image folder."""
    text: str
    """The question, without ``<image>``."""
    category: str | None

    def with_key(self, images: Path, key: Key) -> Asked[Key]:
        """Return the question about its one image, with what scores the answer.

        Args:
            images: the benchmark's image folder.
            key: of the benchmark's own kind.
        """
        return Asked(
            id=self.id,
            images=(images / self.image,),
            text=with_image(self.text),
            prompt=self.text,
            key=key,
        )


def read_llava_questions(path: Path) -> list[LlavaQuestion]:
    """Read one of LLaVA's question files: a JSON object a line.

    Raises:
        DataError: a line is broken, or there is none.
    """
    read = []
    for place, row in read_json_lines(path):
        category = row.get("category")
        read.append(
            LlavaQuestion(
                place=place,
                id=field(place, row, "question_id", (str, int)),
                image=field(place, row, "image", str),
                text=field(place, row, "text", str),
                category=None if category is None else str(category),
            )
        )
    if not read:
        raise DataError(f"{path}: is empty; download it again")
    return read


def require_own_image(place: str, image: str, *wanted: str) -> None:
    """Raise DataError unless an image's path has the names that its question's id gives it.

    Args:
        place: of the question.
        image: its path, below the benchmark's image folder.
        wanted: each is a folder of the path, or the file's name without its ending.
    """
    path = PurePosixPath(image)
    names = {*path.parent.parts, path.stem, path.name.split(".")[0]}
    if missing := [name for name in wanted if name not in names]:
        what = f"the image {image} is not the question's, whose id says {' and '.join(missing)}"
        raise DataError(f"{place}: {what}; take the published file")


def with_image(text: str) -> str:
    """Return the text of a question with one image, as the original scripts place it."""
    return _IMAGE_LINE + text


def without_instruction(text: str) -> str:
    """Return one of LLaVA's questions without the line that it ends with."""
    return text.strip().removesuffix(SHORT_ANSWER).strip()


def letters_and_digits(text: str) -> str:
    """Return what tells one question from another: its letters and digits, in lower case.

    Editions of a file differ in case, white space and punctuation.
    """
    return _NEITHER_LETTER_NOR_DIGIT.sub("", text.casefold())


def on_one_line(text: str) -> str:
    """Return a text with its signs, in lower case, with single spaces."""
    return " ".join(text.casefold().split())
