"""MME: two questions about each image, one whose answer is yes and one no; points of perception.

The rules of MME's own calculation.py. A category's points are its accuracy in per cent plus
"accuracy+", the share of images with both questions right: 200 at most, 2000 for the ten
categories of perception (the published number) and 800 for the four of cognition.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellama.config import DataError, one_line
from mobilellama.vlm.benchmarks.benchmark import (
    SHORT_ANSWER,
    Answers,
    Asked,
    Files,
    Scores,
    Table,
    find_files,
    percent,
    read_llava_questions,
    require_own_image,
)

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark",
    "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
FILES: Files = {
    "questions": ("MME/llava_mme.jsonl", "mme/llava_mme.jsonl"),
    # A later edition of the archive holds one folder more.
    "benchmark": (
        "MME/MME_Benchmark_release_version/MME_Benchmark",
        "MME/MME_Benchmark_release_version",
        "mme/images/MME_Benchmark",
        "mme/images",
    ),
}
_YES_OR_NO = "Please answer yes or no."

Found = dict[tuple[str, str, str], str]
"""The right answer by (category, image's name with .txt for its ending, question)."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """Where a question stands in the benchmark's tree, and its answer."""

    category: str
    file: str
    """The image's text file."""
    question: str
    """As the benchmark has it, "Please answer yes or no." included."""
    answer: str
    """yes or no."""


def questions(data: Path) -> list[Asked[Key]]:
    """Read LLaVA's questions, and their answers from the benchmark's tree.

    Raises:
        ConfigError: a file is missing.
        DataError: a file is damaged, a question has no answer, or pairs are torn apart.
    """
    files = find_files(data, FILES)
    answers = read_tree(files["benchmark"])
    asked = []
    for row in read_llava_questions(files["questions"]):
        key = find_key(str(row.id), row.text, answers)
        if key is None:
            what = f"has no question like {row.text!r} for {row.id}"
            raise DataError(f"{row.place}: {files['benchmark']} {what}")
        if key.category not in (*PERCEPTION, *COGNITION):
            raise DataError(f"{row.place}: '{key.category}' is not a category of MME")
        require_own_image(row.place, row.image, key.category, key.file.removesuffix(".txt"))
        asked.append(row.with_key(files["benchmark"], key))
    require_pairs(asked, files["questions"])
    return asked


def require_pairs(asked: Sequence[Asked[Key]], path: Path) -> None:
    """Raise DataError unless two different questions are asked about each image."""
    keys = [one.key for one in asked]
    for numbers in by_image(keys).values():
        if len(numbers) != 2 or len({keys[number].question for number in numbers}) != 2:
            one = asked[numbers[0]]
            what = (
                f"the image of the question {one.prompt!r} of {one.id} has {len(numbers)} questions"
            )
            raise DataError(
                f"{path}: {what}, but must have two different ones; take the published file"
            )


def read_tree(folder: Path) -> Found:
    """Read the answers: a text file for each image, a line for each question, a tab between.

    Of a category that has a folder ``images``, the text files lie in ``questions_answers_YN``.

    Raises:
        DataError: a line is not a question, a tab and yes or no.
    """
    found: Found = {}
    for category in sorted(path for path in folder.iterdir() if path.is_dir()):
        split = (category / "images").is_dir()
        texts = category / "questions_answers_YN" if split else category
        for path in sorted(texts.glob("*.txt")):
            for number, line in enumerate(_lines(path), 1):
                if not line.strip():
                    continue
                question, tab, answer = line.strip().partition("\t")
                if not tab or answer.lower() not in ("yes", "no"):
                    what = "must be a question, a tab, and Yes or No"
                    raise DataError(f"{path}:{number}: {what}; download it again")
                found[category.name, path.name, question] = answer
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {one_line(error)}; download it again") from None


def find_key(id_: str, prompt: str, answers: Found) -> Key | None:
    """Return what the tree has of a question, as LLaVA's converter looks it up.

    Its own instruction gives way to the benchmark's, which stands after one space, or two.
    """
    parts = id_.split("/")
    # Cut at the first dot, as the converter does.
    category, file = parts[0], f"{parts[-1].split('.')[0]}.txt"
    question = prompt
    if SHORT_ANSWER in question:
        question = question.replace(SHORT_ANSWER, "").strip()
    candidates = [question]
    if _YES_OR_NO not in question:
        candidates = [f"{question} {_YES_OR_NO}", f"{question}  {_YES_OR_NO}"]
    for candidate in candidates:
        if answer := answers.get((category, file, candidate)):
            return Key(category=category, file=file, question=candidate, answer=answer.lower())
    return None


def verdict_of_first_four_characters(text: str) -> str:
    """Return yes, no or other, as calculation.py takes an answer.

    "yes" or "no" alone, else either word within the first four characters: "Not sure", "nope" and
    "I know" are no, "There is no" is other.
    """
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def pairs(keys: Sequence[Key]) -> Iterator[tuple[int, int]]:
    """Yield the numbers of each image's two questions.

    The original takes each two lines that follow each other in a category, which in the published
    order are the same. One question alone, as --limit may leave it, says nothing of accuracy+.
    """
    for numbers in by_image(keys).values():
        if len(numbers) == 2:
            yield numbers[0], numbers[1]


def by_image(keys: Sequence[Key]) -> dict[tuple[str, str], list[int]]:
    """Return the numbers of each image's questions, in their order."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for number, key in enumerate(keys):
        numbers.setdefault((key.category, key.file), []).append(number)
    return numbers


def by_category(keys: Sequence[Key]) -> dict[str, list[int]]:
    """Return the numbers of each category's questions, in their order."""
    numbers: dict[str, list[int]] = {}
    for number, key in enumerate(keys):
        numbers.setdefault(key.category, []).append(number)
    return numbers


def score(asked: Sequence[Asked[Key]], answers: Answers) -> Scores:
    """Add up the points; "other" and missing answers are wrong."""
    keys = [one.key for one in asked]
    said = [None if text is None else verdict_of_first_four_characters(text) for text in answers]
    right = [verdict == key.answer for verdict, key in zip(said, keys, strict=True)]
    both: dict[str, list[bool]] = {}
    for first, second in pairs(keys):
        both.setdefault(keys[first].category, []).append(right[first] and right[second])
    rows = {
        category: _Row(
            right=[right[i] for i in numbers],
            both=both.get(category, []),
            other=sum(said[i] == "other" for i in numbers),
        )
        for category, numbers in by_category(keys).items()
    }
    tables: dict[str, Table] = {}
    for title, names in (("perception", PERCEPTION), ("cognition", COGNITION)):
        if mine := {name: rows[name] for name in names if name in rows}:
            shown = {name: row.columns() for name, row in mine.items()}
            tables[title] = {**shown, "sum": _sum(mine.values())}
    found = sum(name in rows for name in PERCEPTION)
    whole = found == len(PERCEPTION)
    note = f"No score: {found} of the {len(PERCEPTION)} categories of perception are there."
    return Scores(
        score=tables["perception"]["sum"]["points"] if whole else None,
        metric="points of perception, of 2000",
        questions=len(asked),
        unanswered=sum(answer is None for answer in answers),
        tables=tables,
        notes=() if whole else (note,),
    )


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A category's measures: of its questions, and of its images."""

    right: Sequence[bool]
    """Of each question."""
    both: Sequence[bool]
    """Of each image: whether both of its questions are right."""
    other: int
    """Answers that are neither yes nor no."""

    @property
    def questions(self) -> int:
        """How many there are."""
        return len(self.right)

    @property
    def accuracy(self) -> float | None:
        """Per cent of the questions; None of none."""
        return percent(sum(self.right), len(self.right))

    @property
    def accuracy_plus(self) -> float | None:
        """Per cent of the images; None of none."""
        return percent(sum(self.both), len(self.both))

    @property
    def points(self) -> float:
        """The sum of both, at most 200."""
        return (self.accuracy or 0.0) + (self.accuracy_plus or 0.0)

    def columns(self) -> dict[str, float | int | None]:
        """Return the row as the table has it."""
        return {
            "questions": self.questions,
            "accuracy": self.accuracy,
            "accuracy+": self.accuracy_plus,
            "points": self.points,
            "other": self.other,
        }


def _sum(rows: Collection[_Row]) -> dict[str, float | int | None]:
    return {
        "questions": sum(row.questions for row in rows),
        "points": sum(row.points for row in rows),
        "other": sum(row.other for row in rows),
    }


def submission(asked: Sequence[Asked[Key]], answers: Answers) -> Mapping[str, bytes]:
    """Return what calculation.py reads: for each category a file of four columns.

    Text file, question, right answer, answer; of an answer, tabs and line breaks become spaces,
    which calculation.py would stumble over. It takes lines two by two, so that an image's two
    questions stand together.
    """
    files: dict[str, list[str]] = {}
    numbers = by_image([one.key for one in asked]).values()
    for number in (number for its in numbers for number in its):
        key, answer = asked[number].key, answers[number]
        said = " ".join((answer or "").replace("\t", " ").splitlines())
        line = "\t".join((key.file, key.question, key.answer, said))
        files.setdefault(f"{key.category}.txt", []).append(f"{line}\n")
    return {name: "".join(lines).encode() for name, lines in files.items()}
