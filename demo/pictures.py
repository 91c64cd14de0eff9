"""Handwritten digits as small colour pictures, and records about them in LLaVA's form.

scikit-learn carries 1,797 scans of 8 x 8 pixels. A picture is a scan, enlarged, of its own size,
colour and place on a ground of its own; some scans are held out, and no picture of them is in a
file that is trained on.

    images/             PNG, 46 to 68 pixels a side: SCAN_COPY.png
    captions.json       stage 1: half of the pictures that are trained on, with their captions
    conversations.json  stage 2: one or two questions about each picture of the other half, one
                        question about two of them, and conversations without any
    questions.jsonl     about held-out scans, with the answers expected: 'vlm generate' reads it

Nothing but the picture gives an answer away: every question is asked of every digit.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DESCRIBE = "Describe the picture."
MIDDLE = 4
_OFF_CENTRE = (9, 4)  # pixels at most, along the longer and the shorter side

Record = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """One image file and what it shows."""

    file: str
    """Name within the folder of images."""
    digit: int

    @property
    def caption(self) -> str:
        """What is said of it in stage 1."""
        return f"A handwritten digit {NAMES[self.digit]}."


@dataclass(frozen=True)
class Pictures:
    """All pictures, by what they are for."""

    train: tuple[Picture, ...]
    heldout: tuple[Picture, ...]
    """One of each held-out scan."""


def _a(digit: int) -> str:
    return f"{'an' if digit == 8 else 'a'} {digit}"


def _digit(digit: int) -> str:
    return f"It is {_a(digit)}."


def _parity(digit: int) -> str:
    return "It is odd." if digit % 2 else "It is even."


def _size(digit: int) -> str:
    larger = digit > MIDDLE
    return f"{'Yes' if larger else 'No'}, it is {'' if larger else 'not '}larger."


def _larger(first: int, second: int) -> str:
    return "The first." if first > second else "The second."


def _both(first: int, second: int) -> str:
    return f"{_a(first).capitalize()} and {_a(second)}."


QUESTIONS: Mapping[str, tuple[str, Callable[..., str]]] = {
    "digit": ("Which digit is in the picture?", _digit),
    "parity": ("Is the digit even or odd?", _parity),
    "size": (f"Is the digit larger than {NAMES[MIDDLE]}?", _size),
    "both": ("Which digits are in the two pictures?", _both),
    "larger": ("Which picture shows the larger digit?", _larger),
}
"""Each kind of question with its answer for the digits shown, in their order."""
ABOUT_ONE, ABOUT_TWO = ("digit", "parity", "size"), ("both", "larger")


def build_pictures(
    folder: Path,
    *,
    text_only: Path,
    pictures_of_a_scan: int = 4,
    heldout_scans: int = 297,
    seed: int = 0,
) -> Pictures:
    """Write the images and the three files beside them; the same ones whenever it is called.

    Args:
        folder: made if missing.
        text_only: the train.json of instructions.py, from which stage 2's conversations without
            a picture come.
        pictures_of_a_scan: that is trained on; of a held-out scan there is one.
        heldout_scans: drawn from all scans.
        seed: of the drawing of everything.
    """
    from sklearn.datasets import load_digits

    scans: Any = load_digits()
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)

    def drawn(scan: int, copies: int) -> Iterator[Picture]:
        for copy in range(copies):
            picture = Picture(f"{scan:04}_{copy}.png", int(scans.target[scan]))
            draw(scans.images[scan], rng).save(folder / "images" / picture.file)
            yield picture

    order = rng.permutation(len(scans.images)).tolist()
    heldout = [one for scan in order[:heldout_scans] for one in drawn(scan, 1)]
    train = [one for scan in order[heldout_scans:] for one in drawn(scan, pictures_of_a_scan)]
    train = [train[i] for i in rng.permutation(len(train))]
    captions = [_record([one], [(DESCRIBE, one.caption)]) for one in train[0::2]]
    texts = json.loads(text_only.read_text(encoding="utf-8"))
    conversations = _conversations(train[1::2], texts, rng)
    for name, records in (("captions", captions), ("conversations", conversations)):
        text = json.dumps(records, indent=1) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    rows = (json.dumps(row) + "\n" for row in _heldout_questions(heldout, rng))
    (folder / "questions.jsonl").write_text("".join(rows), encoding="utf-8")
    return Pictures(tuple(train), tuple(heldout))


def draw(scan: NDArray[np.float64], rng: np.random.Generator) -> Image.Image:
    """Return a picture of a scan, whose 8 x 8 values go from 0 (paper) to 16 (ink).

    Wider than high or higher than wide, about 64 x 50. A centre crop may cut strokes off,
    padding to a square does not.
    """
    long, short = int(rng.integers(58, 69)), int(rng.integers(46, 55))
    width, height = (long, short) if rng.random() < 0.7 else (short, long)
    side = int(rng.integers(40, 46))
    # A border, so that a stroke at the scan's edge ends softly.
    edged = np.pad(scan * (255 / 16), 1).astype(np.uint8)
    digit = Image.fromarray(edged).resize((side, side), Image.Resampling.BICUBIC)
    along, across = (int(rng.integers(-most, most + 1)) for most in _OFF_CENTRE)
    left, top = (along, across) if width > height else (across, along)
    at = ((width - side) // 2 + left, (height - side) // 2 + top)
    ink = Image.new("L", (width, height))
    ink.paste(digit, at)
    ground = _ground(width, height, rng)
    colour = tuple(int(value) for value in rng.integers(0, 90, 3))
    return Image.composite(Image.new("RGB", (width, height), colour), ground, ink)


def _ground(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Return a light ground: a colour that brightens or darkens to one side, with some noise."""
    colour, slope = rng.integers(170, 240, 3), rng.integers(-30, 31, 2)
    down, across = np.mgrid[0:height, 0:width]
    light = slope[0] * (down / height - 0.5) + slope[1] * (across / width - 0.5)
    noise = rng.integers(-6, 7, (height, width))
    values = colour + (light + noise)[..., None]
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _conversations(
    pictures: Sequence[Picture], texts: Sequence[Record], rng: np.random.Generator
) -> list[Record]:
    """Return stage 2's records: of every ten, six about one picture, three about two, one text."""
    records = []
    for picture in pictures:
        kinds = rng.permutation(ABOUT_ONE)[: int(rng.integers(1, 3))]
        records.append(_record([picture], [ask(kind, picture) for kind in kinds]))
    for kind, pair in _pairs(pictures, len(pictures) // 2, rng):
        records.append(_record(pair, [ask(kind, *pair)]))
    records += texts[: len(pictures) // 6]
    return [records[i] for i in rng.permutation(len(records))]


def _heldout_questions(pictures: Sequence[Picture], rng: np.random.Generator) -> Iterator[Record]:
    """Yield the rows that 'vlm generate' reads: of each kind, but most ask for the digit."""
    asked: list[tuple[str, list[Picture]]] = [("digit", [one]) for one in pictures]
    asked += [(ABOUT_ONE[1 + i % 2], [one]) for i, one in enumerate(pictures)]
    asked += _pairs(pictures, len(pictures) * 2 // 3, rng)
    for number, (kind, shown) in enumerate(asked):
        question, answer = ask(kind, *shown)
        yield {
            "question_id": number,
            "kind": kind,
            "image": _files(shown),
            "text": "<image>\n" * len(shown) + question,
            "expected": answer,
        }


def ask(kind: str, *shown: Picture) -> tuple[str, str]:
    """Return a question about one or two pictures, and its answer."""
    question, answer = QUESTIONS[kind]
    return question, answer(*(one.digit for one in shown))


def _pairs(
    pictures: Sequence[Picture], count: int, rng: np.random.Generator
) -> Iterator[tuple[str, list[Picture]]]:
    """Yield kinds of ABOUT_TWO in turn, each with two pictures of different digits.

    The larger one is the first as often as the second.
    """
    by_digit = [[one for one in pictures if one.digit == digit] for digit in range(10)]
    for i in range(count):
        first = pictures[int(rng.integers(len(pictures)))]
        others = [digit for digit in range(10) if digit != first.digit and by_digit[digit]]
        those = by_digit[int(rng.choice(others))]
        pair = [first, those[int(rng.integers(len(those)))]]
        larger_first = i // 2 % 2 == 0
        yield ABOUT_TWO[i % 2], sorted(pair, key=lambda one: one.digit, reverse=larger_first)


def _record(shown: Sequence[Picture], exchanges: Sequence[tuple[str, str]]) -> Record:
    """Return a record of LLaVA's form; the first question stands below the pictures."""
    turns = []
    for i, (question, answer) in enumerate(exchanges):
        above = "<image>\n" * len(shown) if i == 0 else ""
        turns += [{"from": "human", "value": above + question}, {"from": "gpt", "value": answer}]
    name = "+".join(Path(one.file).stem for one in shown)
    return {"id": name, "image": _files(shown), "conversations": turns}


def _files(shown: Sequence[Picture]) -> str | list[str]:
    """Return what LLaVA's field 'image' holds: a name, or names where there are several."""
    files = [one.file for one in shown]
    return files[0] if len(files) == 1 else files
