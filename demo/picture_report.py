"""What the vision-language model has learnt: right answers to each kind of question, and a look.

An answer is right if it is the expected one, character by character.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pictures import ABOUT_ONE, QUESTIONS
from PIL import Image

from mobilellama.files.json_lines import read_json_lines
from mobilellama.picture import INK, new_figure, write_png
from mobilellama.vlm.data.images import read_image

Row = dict[str, Any]
"""Of 'vlm generate': a row of questions.jsonl with its answer."""

_RIGHT, _WRONG = "#228833", "#cc3311"
_COLUMNS = 4


@dataclass(frozen=True)
class KindScore:
    """The answers to one kind of question about held-out pictures."""

    kind: str
    questions: int
    right: int
    constant: int
    """Right answers of who always gives the one that is expected most often."""

    @property
    def share(self) -> float:
        """Of right answers."""
        return self.right / self.questions

    @property
    def chance(self) -> float:
        """Share of right answers of the best constant."""
        return self.constant / self.questions


def score_answers(rows: Sequence[Row]) -> list[KindScore]:
    """Return a score for each kind that is asked, in the order of QUESTIONS."""
    scores = []
    for kind in QUESTIONS:
        asked = [row for row in rows if row["kind"] == kind]
        if asked:
            right = sum(map(is_right, asked))
            ((_, constant),) = Counter(row["expected"] for row in asked).most_common(1)
            scores.append(KindScore(kind, len(asked), right, constant))
    return scores


def table(scores: Sequence[KindScore], *, probe: float) -> str:
    """Return the scores as lines.

    Args:
        scores: of the kinds of questions.
        probe: share of held-out digits that a linear model reads off the vision tower.
    """
    lines = [f"{'pictures that are held out':<42}  asked    right  best single answer"]
    for score in scores:
        question, shares = QUESTIONS[score.kind][0], f"{score.share:>7.1%} {score.chance:>7.1%}"
        lines.append(f"  {question:<40}  {score.questions:>5}  {shares}")
    lines.append(f"  {'the digit, read off the tower linearly':<47}  {probe:>7.1%}")
    return "\n".join(lines)


def shortfalls(scores: Sequence[KindScore]) -> list[str]:
    """Return what should have been learnt about pictures and was not."""
    found = []
    for score in scores:
        # Half of the way from the best constant to no mistake; of two pictures, where mistakes
        # add up, a tenth.
        part = 0.5 if score.kind in ABOUT_ONE else 0.1
        least = score.chance + (1 - score.chance) * part
        if not score.share >= least:
            found.append(
                f"'{QUESTIONS[score.kind][0]}' should be answered rightly {least:.0%} of the time "
                f"or more, not {score.share:.1%}"
            )
    return found


def is_right(row: Row) -> bool:
    """Return whether the answer is the expected one."""
    return row["answer"] == row["expected"]


def verdict(row: Row) -> str:
    """Return the answer, with the expected one below it where that is another."""
    return row["answer"] if is_right(row) else f"{row['answer']}\n(expected: {row['expected']})"


def read_answers(path: Path) -> list[Row]:
    """Return the rows of 'vlm generate'."""
    return [row for _, row in read_json_lines(path)]


def plot_answers(rows: Sequence[Row], images: Path, output: Path, *, count: int = 12) -> None:
    """Draw pictures with question and answer as a PNG: of each kind in turn.

    Wrong answers are marked, and the expected one is added.

    Args:
        rows: of 'vlm generate'.
        images: folder of the pictures.
        output: the .png file.
        count: questions shown.
    """
    shown = _varied(rows, count)
    lines = -(-len(shown) // _COLUMNS)
    figure = new_figure(2.6 * _COLUMNS, 2.5 * lines)
    axes = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, row in zip(axes, shown, strict=False):
        axis.imshow(_side_by_side(row, images))
        question = row["text"].replace("<image>", "").strip()
        axis.set_title(question, fontsize=8, color=INK)
        axis.text(
            0.5, -0.04, verdict(row), transform=axis.transAxes, ha="center", va="top",
            fontsize=8, color=_RIGHT if is_right(row) else _WRONG, parse_math=False,
        )  # fmt: skip
    write_png(figure, str(output))


def _varied(rows: Sequence[Row], count: int) -> list[Row]:
    """Return so many rows, of each kind in turn, the same pictures never twice."""
    kinds = [iter([row for row in rows if row["kind"] == kind]) for kind in QUESTIONS]
    shown: list[Row] = []
    seen: set[str] = set()
    while len(shown) < count:
        before = len(shown)
        for asked in kinds:
            fresh = (row for row in asked if not seen & set(_files(row)))
            if (row := next(fresh, None)) is not None:
                shown.append(row)
                seen |= set(_files(row))
        if len(shown) == before:
            break
    return shown[:count]


def _files(row: Row) -> list[str]:
    return [row["image"]] if isinstance(row["image"], str) else row["image"]


def _side_by_side(row: Row, images: Path) -> Image.Image:
    """Return a question's picture, or its pictures next to each other."""
    pictures = [read_image(images / file) for file in _files(row)]
    gap = 6
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + gap
    return sheet
