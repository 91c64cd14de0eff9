"""What the vision-language model has learnt: right answers to each kind of question, and a look.

An answer is right if it is the expected one, character by character.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pictures import QUESTIONS
from PIL import Image

from mobilellama.files import read_json_lines
from mobilellama.picture import INK, new_figure, write_png

Row = dict[str, Any]
"""Of 'vlm generate': a row of questions.jsonl with its answer."""

_RIGHT, _WRONG = "#228833", "#cc3311"
_COLUMNS = 4


@dataclass(frozen=True)
class Score:
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


def score_answers(rows: Sequence[Row]) -> list[Score]:
    """Return a score for each kind that is asked, in the order of QUESTIONS."""
    scores = []
    for kind in QUESTIONS:
        asked = [row for row in rows if row["kind"] == kind]
        if asked:
            right = sum(row["answer"] == row["expected"] for row in asked)
            ((_, constant),) = Counter(row["expected"] for row in asked).most_common(1)
            scores.append(Score(kind, len(asked), right, constant))
    return scores


def table(scores: Sequence[Score], *, probe: float) -> str:
    """Return the scores as lines.

    Args:
        scores: of the kinds of questions.
        probe: share of held-out digits that a linear model reads off the vision tower.
    """
    lines = [f"{'pictures that are held out':<42} asked   right  best single answer"]
    for score in scores:
        question = QUESTIONS[score.kind][0]
        lines.append(
            f"  {question:<40} {score.questions:>4} {score.share:>7.1%} {score.chance:>7.1%}"
        )
    lines.append(f"  {'digit, read off the tower by a linear model':<45} {probe:>7.1%}")
    return "\n".join(lines)


def shortfalls(scores: Sequence[Score]) -> list[str]:
    """Return what should have been learnt about pictures and was not."""
    found = []
    for score in scores:
        # Half of the way from the best constant to no mistake; a digit is one of ten.
        least = score.chance + (1 - score.chance) / 2
        if score.kind in ("digit", "parity", "size") and not score.share >= least:
            found.append(
                f"'{QUESTIONS[score.kind][0]}' should be answered rightly {least:.0%} of the time "
                f"or more, not {score.share:.1%}"
            )
    return found


def read_answers(path: Path) -> list[Row]:
    """Return the rows of 'vlm generate'."""
    return [row for _, row in read_json_lines(path)]


def plot_answers(rows: Sequence[Row], images: Path, output: Path, *, count: int = 12) -> None:
    """Draw pictures with question and answer as a PNG: as many of each kind as can be.

    Wrong answers are marked, and the expected one is added.

    Args:
        rows: of 'vlm generate'.
        images: folder of the pictures.
        output: the .png file.
        count: questions shown.
    """
    kinds = [[row for row in rows if row["kind"] == kind] for kind in QUESTIONS]
    shown = [asked[i] for i in range(count) for asked in kinds if i < len(asked)][:count]
    lines = -(-len(shown) // _COLUMNS)
    figure = new_figure(2.6 * _COLUMNS, 2.5 * lines)
    axes = figure.subplots(lines, _COLUMNS, squeeze=False).flat
    for axis in axes:
        axis.set_axis_off()
    for axis, row in zip(axes, shown, strict=False):
        axis.imshow(_side_by_side(row, images))
        right = row["answer"] == row["expected"]
        verdict = "" if right else f"\nexpected: {row['expected']}"
        question = row["text"].replace("<image>", "").strip()
        axis.set_title(question, fontsize=8, color=INK)
        axis.text(
            0.5, -0.04, row["answer"] + verdict, transform=axis.transAxes, ha="center", va="top",
            fontsize=8, color=_RIGHT if right else _WRONG, parse_math=False,
        )  # fmt: skip
    write_png(figure, str(output))


def _side_by_side(row: Row, images: Path) -> Image.Image:
    """Return a question's picture, or its pictures next to each other."""
    files = [row["image"]] if isinstance(row["image"], str) else row["image"]
    pictures = [Image.open(images / file).convert("RGB") for file in files]
    gap = 6
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + gap
    return sheet
