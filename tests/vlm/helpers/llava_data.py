"""Small datasets in LLaVA's format, made from a seed: images of several sizes, kinds and colours.

Each image is filled with one colour and has a bar of another, so that no two are alike; each
record's answers name the colours of its images, so that there is something to learn. Of every
five records three have one image, one has two, and one is text only.
"""

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 60),
    "blue": (40, 60, 220),
    "yellow": (240, 220, 40),
    "white": (250, 250, 250),
    "black": (10, 10, 10),
}
_SIZES = ((40, 30), (30, 40), (32, 32), (64, 20), (17, 53), (56, 56))
_KINDS = (("RGB", ".jpg"), ("RGB", ".png"), ("L", ".png"), ("RGBA", ".png"), ("P", ".png"))


def make_images(folder: Path, count: int, seed: int = 0) -> list[str]:
    """Write images into two subfolders of `folder`; return their names, relative to it."""
    rng = random.Random(seed)
    names = []
    for number in range(count):
        mode, ending = _KINDS[number % len(_KINDS)]
        width, height = _SIZES[number % len(_SIZES)]
        image = Image.new("RGB", (width, height), COLOURS[colour_of(number)])
        left, top = rng.randrange(width - 4), rng.randrange(height - 4)
        shade = tuple(rng.randrange(256) for _ in range(3))
        ImageDraw.Draw(image).rectangle((left, top, left + 3, top + 3), fill=shade)
        name = f"{'ab'[number % 2]}/{number:05}{ending}"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.convert(mode).save(path)
        names.append(name)
    return names


def colour_of(number: int) -> str:
    """Return the colour that fills the image of this number."""
    return list(COLOURS)[number * 7 % len(COLOURS)]


def make_records(count: int, images: list[str], seed: int = 0) -> list[dict[str, Any]]:
    """Return records in LLaVA's format; every image is used if there are enough records."""
    rng = random.Random(seed)
    records, used = [], 0
    for number in range(count):
        wanted = (1, 1, 2, 1, 0)[number % 5] if images else 0
        chosen = [(used + i) % len(images) for i in range(wanted)]
        used += wanted
        record: dict[str, Any] = {"id": f"made_{number}"}
        if chosen:
            names = [images[i] for i in chosen]
            record["image"] = names[0] if len(names) == 1 else names
        record["conversations"] = _turns([colour_of(i) for i in chosen], number, rng)
        records.append(record)
    return records


def _turns(colours: list[str], number: int, rng: random.Random) -> list[dict[str, str]]:
    if not colours:
        one, other = rng.randrange(10), rng.randrange(10)
        pairs = [(f"What is {one} plus {other}?", f"It is {one + other}.")]
    elif len(colours) == 1:
        asked = "What colour is it?"
        placed = f"<image>\n{asked}" if number % 2 else f"{asked}\n<image>"  # both are in use
        pairs = [(placed, f"It is {colours[0]}.")]
    else:
        places = " ".join(f"{i}: <image>" for i in range(1, len(colours) + 1))
        pairs = [(f"{places} Name their colours.", f"They are {' and '.join(colours)}.")]
    for _ in range(rng.randrange(3)):
        words = [rng.choice(list(COLOURS)) for _ in range(rng.randint(1, 4))]
        pairs.append((f"Say {' '.join(words)}.", f"{' '.join(words).capitalize()}."))
    roles = ("human", "gpt")
    return [{"from": roles[i], "value": pair[i]} for pair in pairs for i in range(2)]


def make_captions(count: int, images: list[str]) -> list[dict[str, Any]]:
    """Return records of one image, one question and a caption, as the first stage has them."""
    records = []
    for number in range(count):
        chosen = number % len(images)
        asked = ("Describe the picture.\n<image>", "<image>\nWhat is this?")[number % 2]
        turns = [
            {"from": "human", "value": asked},
            {"from": "gpt", "value": f"a {colour_of(chosen)} picture with a small square"},
        ]
        record = {"id": f"caption_{number}", "image": images[chosen], "conversations": turns}
        records.append(record)
    return records


def write_llava(
    folder: Path, records: int = 20, images: int = 10, seed: int = 0, *, captions: bool = False
) -> tuple[Path, Path]:
    """Write a dataset; return the path of its JSON file and the folder of its images.

    Args:
        folder: made if missing.
        records: how many.
        images: how many files they name.
        seed: the same seed makes the same dataset.
        captions: whether the records are for the first stage, see ``make_captions``.
    """
    names = make_images(folder / "images", images, seed)
    made = make_captions(records, names) if captions else make_records(records, names, seed)
    path = folder / "records.json"
    path.write_text(json.dumps(made), encoding="utf-8")
    return path, folder / "images"
