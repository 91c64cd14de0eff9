"""The demo's pictures, tower and scores: true answers, nothing shared with what is held out."""

import importlib
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobilellama.sft.data.labels import encode
from mobilellama.sft.data.template import read_template
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.vlm.data.images import ImageProcessor, read_image
from mobilellama.vlm.data.records import ImageTextConfig, Record, read_vlm_records
from mobilellama.vlm.formats.preprocessor_config import from_folder

DEMO = Path(__file__).parents[2] / "demo"
TEXTS = [
    {"id": f"t{i}", "conversations": [{"from": "human", "value": f"What is {i}?"},
                                      {"from": "gpt", "value": "A number."}]}
    for i in range(300)
]  # fmt: skip


@pytest.fixture(scope="module")
def demo() -> Any:
    """The demo's modules by name; they are a script's neighbours and no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DEMO)
        yield importlib.import_module


@pytest.fixture(scope="module")
def made(demo: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder, with one picture of a scan, and what build_pictures returns."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    pictures = demo("pictures").build_pictures(
        folder, text_only=folder / "texts.json", pictures_of_a_scan=1
    )
    return folder, pictures


@pytest.fixture(scope="module")
def scans() -> Any:
    from sklearn.datasets import load_digits

    return load_digits()


def test_no_scan_that_is_asked_about_is_in_a_file_that_is_trained_on(
    made: tuple[Path, Any], scans: Any
) -> None:
    folder, pictures = made
    captions, conversations = (
        set(scan_numbers(records(folder, name))) for name in ("captions", "conversations")
    )
    assert not captions & conversations
    trained = captions | conversations
    asked = set(scan_numbers(questions(folder)))
    assert (len(trained), len(asked)) == (1_500, 297)
    assert not trained & asked
    for split, numbers in ((pictures.train, trained), (pictures.heldout, asked)):
        assert {int(picture.file[:4]) for picture in split} == numbers
    # Nor under another number: no scan is named twice.
    assert len(np.unique(scans.images.reshape(len(scans.images), -1), axis=0)) == 1_797


def test_every_answer_is_true_of_the_scans(made: tuple[Path, Any], scans: Any) -> None:
    folder, _ = made
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    said: Counter[tuple[str, str]] = Counter()
    for row in questions(folder):
        digits = scans.target[scan_numbers([row])].tolist()
        check(row["text"].removeprefix("<image>\n" * len(digits)), row["expected"], digits)
    for record in records(folder, "conversations"):
        digits = scans.target[scan_numbers([record])].tolist()
        turns = [turn["value"] for turn in record["conversations"]]
        turns[0] = turns[0].removeprefix("<image>\n" * len(digits))
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            if digits:
                check(question, answer, digits)
                said[question, answer] += 1
    for record in records(folder, "captions"):
        (digit,) = scans.target[scan_numbers([record])].tolist()
        assert record["conversations"][1]["value"] == f"A handwritten digit {names[digit]}."
    both = {answer for question, answer in said if question.startswith("Which digits")}
    assert len(said) - len(both) == 10 + 2 + 2 + 2 and 50 < len(both) <= 90


def check(question: str, answer: str, digits: list[int]) -> None:
    first, second = digits[0], digits[-1]
    article = "an" if first == 8 else "a"
    expected = {
        "Which digit is in the picture?": f"It is {article} {first}.",
        "Is the digit even or odd?": f"It is {['even', 'odd'][first % 2]}.",
        "Is the digit larger than four?": (
            "Yes, it is larger." if first >= 5 else "No, it is not larger."
        ),
        "Which picture shows the larger digit?": {1: "The first.", -1: "The second."}.get(
            int(np.sign(first - second))
        ),
        "Which digits are in the two pictures?": (
            f"{article.capitalize()} {first} and {'an' if second == 8 else 'a'} {second}."
        ),
    }
    assert answer == expected[question], digits


def test_no_single_answer_is_right_much_more_often_than_the_answers_allow(
    demo: Any, made: tuple[Path, Any]
) -> None:
    rows = [{**row, "answer": ""} for row in questions(made[0])]
    chance = {score.kind: score.chance for score in demo("picture_report").score_answers(rows)}
    assert chance.keys() == {"digit", "parity", "size", "both", "larger"}
    assert chance.pop("digit") < 0.15
    assert max(chance.values()) < 0.6


def test_vlm_run_takes_every_record(made: tuple[Path, Any]) -> None:
    folder, _ = made
    counts = {}
    for name in ("captions", "conversations"):
        data = ImageTextConfig(path=str(folder / f"{name}.json"), images=str(folder / "images"))
        read = list(read_vlm_records(data, plain=name == "captions", folder=None))
        taken = [one for one in read if isinstance(one, Record)]
        assert len(taken) == len(read) and not any(one.fixes for one in taken)
        counts[name] = Counter(len(one.images) for one in taken)
    assert counts == {"captions": {1: 750}, "conversations": {0: 125, 1: 750, 2: 375}}


def test_every_conversation_fits_the_demos_context(
    made: tuple[Path, Any], small_tokenizer: Path
) -> None:
    """With 16 tokens for each image, and a tokenizer that needs more than the demo's."""
    template, tokenizer = read_template(str(DEMO / "chat.yaml")), open_tokenizer(small_tokenizer)
    folder, _ = made
    data = ImageTextConfig(path=str(folder / "conversations.json"), images=str(folder / "images"))
    for one in read_vlm_records(data, folder=None):
        assert isinstance(one, Record)
        ids = encode(template, tokenizer, one.turns).ids
        assert len(ids) + 16 * len(one.images) < 256


def test_the_same_files_are_made_again(demo: Any, made: tuple[Path, Any], tmp_path: Path) -> None:
    folder, pictures = made
    again = demo("pictures").build_pictures(
        tmp_path, text_only=folder / "texts.json", pictures_of_a_scan=1
    )
    assert again == pictures
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert len(files) == 1_797 + 3
    assert all((tmp_path / file).read_bytes() == (folder / file).read_bytes() for file in files)


def test_pictures_differ_in_shape_and_place_even_of_one_scan(demo: Any, scans: Any) -> None:
    rng = np.random.default_rng(0)
    drawn = [demo("pictures").draw(scans.images[0], rng) for _ in range(40)]
    shapes = {image.size for image in drawn}
    assert len(shapes) > 20 and all(46 <= min(size) < max(size) <= 68 for size in shapes)
    assert {size[0] > size[1] for size in shapes} == {True, False}
    inks = [np.asarray(image.convert("L")) < 110 for image in drawn]
    assert len({tuple(np.argwhere(ink).mean(0).round()) for ink in inks if ink.any()}) > 20


def test_padding_shows_what_a_crop_cuts_off(demo: Any) -> None:
    """A black scan; the part of the square that it fills is smaller where all of it is shown."""
    rng, whole, cut = np.random.default_rng(0), 0, 0
    for _ in range(40):
        image = demo("pictures").draw(np.full((8, 8), 16.0), rng)
        for aspect in ("pad", "square"):
            pixels = ImageProcessor(size_pixels=64, aspect_ratio=aspect).pixels(image)
            ink = pixels.max(0) < 110
            at_an_edge = ink[:, 0].any() or ink[:, -1].any() or ink[0].any() or ink[-1].any()
            whole += aspect == "pad" and not at_an_edge
            cut += aspect == "square" and at_an_edge
    assert whole == 40
    assert 5 < cut < 35


@pytest.mark.slow
def test_a_tower_learns_what_digits_look_like(
    demo: Any, made: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, pictures = made
    tower, images = demo("tower"), folder / "images"
    shares = []
    for epochs in (1, 10):
        out = tmp_path / str(epochs)
        tower.train_tower(pictures.train, images, out, epochs=epochs)
        shares.append(tower.linear_probe(out, pictures.train, pictures.heldout, images))
    assert shares[1] > shares[0] + 0.2 and shares[1] > 0.5


def test_a_tower_is_a_folder_that_transformers_loads_and_the_same_every_time(
    demo: Any, made: tuple[Path, Any], tmp_path: Path
) -> None:
    from transformers import CLIPVisionModel

    folder, pictures = made
    images = folder / "images"
    for name in ("a", "b"):
        demo("tower").train_tower(pictures.train[:100], images, tmp_path / name, epochs=1)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]
    processor = from_folder(tmp_path / "a", "pad")
    pixels = processor.pixels(read_image(images / pictures.heldout[0].file))
    model = CLIPVisionModel.from_pretrained(tmp_path / "a")
    with torch.no_grad():
        seen = model(processor.normalise(torch.from_numpy(pixels))[None], output_hidden_states=True)
    assert seen.hidden_states[-2].shape == (1, 1 + 36, 64)


def answered(kind: str, expected: str, answer: str, **more: object) -> dict[str, Any]:
    return {"kind": kind, "expected": expected, "answer": answer, **more}


ANSWERS = [
    answered("both", "A 3 and a 5.", "A 3 and a 5."),
    *(answered("digit", f"It is a {digit}.", "It is a 7.") for digit in (7, 7, 7, 3)),
    answered("digit", "It is a 3.", "It is a 3 ."),
    answered("parity", "It is odd.", "It is even."),
    answered("parity", "It is even.", "It is even."),
]


def test_the_scores_are_those_counted_by_hand(demo: Any) -> None:
    report = demo("picture_report")
    digit, parity, both = report.score_answers(ANSWERS)
    assert (digit.kind, digit.questions, digit.right, digit.constant) == ("digit", 5, 3, 3)
    assert (digit.share, digit.chance) == pytest.approx((0.6, 0.6))
    assert (parity.kind, parity.questions, parity.right, parity.constant) == ("parity", 2, 1, 1)
    assert (both.kind, both.questions, both.right, both.constant) == ("both", 1, 1, 1)
    assert report.table([digit, parity], probe=0.9375).splitlines() == [
        "pictures that are held out                  asked    right  best single answer",
        "  Which digit is in the picture?                5    60.0%   60.0%",
        "  Is the digit even or odd?                     2    50.0%   50.0%",
        "  the digit, read off the tower linearly             93.8%",
    ]


def test_the_demo_fails_where_pictures_are_not_understood(demo: Any) -> None:
    report = demo("picture_report")
    digit = report.KindScore("digit", questions=100, right=56, constant=12)
    parity = report.KindScore("parity", questions=100, right=75, constant=50)
    assert report.shortfalls([digit, parity]) == []
    assert report.shortfalls([replace(digit, right=55), parity]) == [
        "'Which digit is in the picture?' should be answered rightly 56% of the time or more, "
        "not 55.0%"
    ]
    (shortfall,) = report.shortfalls([digit, replace(parity, right=74)])
    assert "even or odd" in shortfall
    both = report.KindScore("both", questions=100, right=14, constant=4)
    assert report.shortfalls([both]) == []
    (shortfall,) = report.shortfalls([replace(both, right=13)])
    assert "the two pictures" in shortfall


def test_a_wrong_answer_is_shown_with_the_expected_one(demo: Any) -> None:
    verdict = demo("picture_report").verdict
    assert verdict(ANSWERS[1]) == "It is a 7."
    assert verdict(ANSWERS[4]) == "It is a 7.\n(expected: It is a 3.)"


def test_answers_are_drawn_below_their_pictures(
    demo: Any, made: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, _ = made
    report = demo("picture_report")
    rows = [{**row, "answer": row["expected"]} for row in questions(folder)]
    sizes = {}
    for name, wrong in (("right", False), ("wrong", True)):
        shown = [{**row, "answer": "$x"} if wrong else row for row in rows]
        report.plot_answers(shown, folder / "images", tmp_path / f"{name}.png", count=5)
        with Image.open(tmp_path / f"{name}.png") as image:
            red, green, _ = np.asarray(image.convert("RGB"), dtype=int).transpose(2, 0, 1)
            sizes[name] = image.size
        assert (red - green > 120).any() == wrong  # no picture is as red as the mark
    assert sizes["right"] == sizes["wrong"] == (1560, 750)


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((folder / f"{name}.json").read_text())


def questions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]


def scan_numbers(rows: list[dict[str, Any]]) -> list[int]:
    """Return the scans in the rows' fields 'image'."""
    shown = (row.get("image", []) for row in rows)
    files = (file for one in shown for file in ([one] if isinstance(one, str) else one))
    return [int(number) for file in files for number in re.findall(r"^(\d{4})_\d\.png$", file)]
