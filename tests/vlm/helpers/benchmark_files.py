"""A few questions of each benchmark in the published layout, with images of 8 x 6 pixels."""

import base64
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

SHORT = "\nAnswer the question using a single word or phrase."


def png(red: int = 200) -> bytes:
    """Return a small image's file; `red` tells one from another."""
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (red, 40, 40)).save(file, "PNG")
    return file.getvalue()


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_json(path: Path, value: Any) -> Path:
    return write(path, json.dumps(value))


def write_lines(path: Path, rows: list[Any]) -> Path:
    return write(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def llava_question(id_: str | int, image: str, text: str, category: str = "default") -> dict:
    return {"question_id": id_, "image": image, "text": text, "category": category}


def write_gqa(data: Path, *, folder: str = "gqa/data") -> None:
    """Write LLaVA's layout; four questions: two open, two binary."""
    asked = [
        ("20", "n1.jpg", "Is it overcast?", "no", "verify", "global"),
        ("21", "n1.jpg", "What is on the left?", "left", "query", "rel"),
        ("22", "n2.jpg", "Which color is it?", "white", "query", "attr"),
        ("23", "n2.jpg", "Is the fence tall or short?", "tall", "choose", "attr"),
    ]
    write_lines(
        data / "gqa/llava_gqa_testdev_balanced.jsonl",
        [llava_question(id_, image, f"{text}{SHORT}") for id_, image, text, *_ in asked],
    )
    known = {
        id_: {
            "question": text,
            "answer": answer,
            "imageId": image.removesuffix(".jpg"),
            "types": {"structural": structural, "semantic": semantic, "detailed": "x"},
        }
        for id_, image, text, answer, structural, semantic in asked
    }
    known["99"] = {"answer": "unasked", "types": {}}
    write_json(data / folder / "testdev_balanced_questions.json", known)
    for name in ("n1.jpg", "n2.jpg"):
        write(data / folder / "images" / name, png())


POPE_LABELS = {
    "adversarial": ["yes", "no", "no", "yes"],
    "popular": ["no", "yes"],
    "random": ["yes", "no"],
}


def write_pope(data: Path) -> None:
    """Write eight questions whose ids the labels do not share; the categories alternate."""
    turn = {name: enumerate(labels) for name, labels in POPE_LABELS.items()}
    order = ["random", "adversarial", "popular", "adversarial"] * 2
    rows = []
    for number, name in enumerate(order):
        nth, _ = next(turn[name])
        text = f"Is there a thing {name} {nth} in the image?{SHORT}"
        rows.append(llava_question(number, f"COCO_{name}_{nth}.jpg", text, name))
        write(data / "pope/val2014" / f"COCO_{name}_{nth}.jpg", png())
    write_lines(data / "pope/llava_pope_test.jsonl", rows)
    for name, labels in POPE_LABELS.items():
        write_lines(
            data / f"pope/coco/coco_pope_{name}.json",
            [
                {
                    "question_id": 500 + nth,
                    "image": f"COCO_{name}_{nth}.jpg",
                    "text": f"Is there a thing {name} {nth} in the image?",
                    "label": label,
                }
                for nth, label in enumerate(labels)
            ],
        )


MME_CATEGORIES = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark",
    "artwork", "OCR", "commonsense_reasoning", "numerical_calculation", "text_translation",
    "code_reasoning",
)  # fmt: skip


def write_mme(data: Path, *, images: int = 1) -> None:
    """Write the benchmark's tree, both of its layouts in it, and two questions an image.

    The second question's instruction stands after two spaces, as a few of the published do.
    """
    rows = []
    for category in MME_CATEGORIES:
        tree = data / "MME/MME_Benchmark_release_version" / category
        split = category in ("landmark", "artwork", "celebrity", "posters", "scene")
        for number in range(images):
            name = f"{category}_{number:04}.v2.png"
            image = f"{category}/images/{name}" if split else f"{category}/{name}"
            write(data / "MME/MME_Benchmark_release_version" / image, png())
            first, second = f"Is {number} here?", f"Is {number} not here?"
            write(
                (tree / "questions_answers_YN" if split else tree) / f"{category}_{number:04}.txt",
                f"{first} Please answer yes or no.\tYes\n{second}  Please answer yes or no.\tNo\n",
            )
            rows += [llava_question(image, image, f"{text}{SHORT}") for text in (first, second)]
    write_lines(data / "MME/llava_mme.jsonl", rows)


def write_scienceqa(data: Path) -> None:
    """Write four test problems, two of them with an image, and one of another split."""
    problems = {
        "4": ("What is it?", ["cat", "dog"], 1, "natural science", "grade2", True),
        "5": ("Which is it?", ["one", "two", "three"], 2, "natural science", "grade3", True),
        "11": ("Who is it?", ["he", "she"], 0, "social science", "grade3", False),
        "12": ("Where is it?", ["here", "there", "away", "up", "down"], 4, "language science",
               "grade2", False),
        "77": ("Why is it?", ["so", "no"], 0, "natural science", "grade9", False),
    }  # fmt: skip
    write_json(
        data / "scienceqa/problems.json",
        {
            id_: {"question": q, "choices": c, "answer": a, "subject": s, "grade": g}
            for id_, (q, c, a, s, g, _) in problems.items()
        },
    )
    test = ["4", "5", "11", "12"]
    write_json(data / "scienceqa/pid_splits.json", {"test": test, "train": ["77"]})
    rows = []
    for id_ in test:
        question, choices, _, _, _, has_image = problems[id_]
        options = " ".join(f"({letter}) {text}" for letter, text in zip("ABCDE", choices))  # noqa: B905
        value = f"Context: N/A\nQuestion: {question}\nOptions: {options}"
        row: dict[str, Any] = {"id": id_, "conversations": [{"from": "human", "value": value}]}
        if has_image:
            row["image"] = f"{id_}/image.png"
            row["conversations"][0]["value"] = f"<image>\n{value}"
            write(data / "scienceqa/images/test" / id_ / "image.png", png())
        rows.append(row)
    write_json(data / "scienceqa/llava_test_CQM-A.json", rows)


def write_textvqa(data: Path) -> None:
    """Write three questions about two images, the first two of one image."""
    asked = [
        ("a1", "What is the brand?", ["Coca Cola"] * 6 + ["coke"] * 3 + ["pepsi"], "COKE, 5"),
        ("a1", "How many bottles?", ["two"] * 2 + ["2"] * 2 + ["3"] * 6, None),
        ("b2", "what is the price?", ["$1,000."] * 10, "1,000"),
    ]
    rows = []
    for image, question, _, tokens in asked:
        ocr = "" if tokens is None else f"\nReference OCR token: {tokens}"
        rows.append(llava_question(image, f"{image}.jpg", f"{question}{ocr}{SHORT}"))
        write(data / "textvqa/train_images" / f"{image}.jpg", png())
    write_lines(data / "textvqa/llava_textvqa_val_v051_ocr.jsonl", rows)
    annotations = [
        {"image_id": image, "question": question, "answers": answers, "question_id": 34602 + i}
        for i, (image, question, answers, _) in enumerate(asked)
    ]
    write_json(data / "textvqa/TextVQA_0.5.1_val.json", {"data": annotations})


MMBENCH_COLUMNS = (
    "index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source",
    "l2-category", "comment", "split",
)  # fmt: skip


def mmbench_row(index: int, options: list[str], answer: str, **other: str) -> dict[str, str]:
    cells = dict.fromkeys(MMBENCH_COLUMNS, "") | {
        "index": str(index),
        "question": "Which one is it?",
        "answer": answer,
        "category": "object",
        "l2-category": "perception",
        "source": "web",
        "split": "dev",
        "image": base64.b64encode(png(index % 200)).decode(),
    }
    return cells | dict(zip("ABCD", options, strict=False)) | other


def write_mmbench(data: Path, rows: list[dict[str, str]] | None = None) -> None:
    """Write a table: question 241 in three rotations, and 252 with a hint in two."""
    if rows is None:
        three, two = ["cat", "dog", "cow"], ["up", "down"]
        rows = [
            mmbench_row(241, three, "A"),
            mmbench_row(252, two, "B", hint="It falls.", category="motion", **{"l2-category": "x"}),
            mmbench_row(1_000_241, [*three[1:], three[0]], "C"),
            mmbench_row(1_000_252, [two[1], two[0]], "A", hint="It falls."),
            mmbench_row(2_000_241, [three[2], *three[:2]], "B"),
        ]
    lines = ["\t".join(MMBENCH_COLUMNS)]
    lines += ["\t".join(row[name] for name in MMBENCH_COLUMNS) for row in rows]
    write(data / "mmbench/mmbench_dev_en_20231003.tsv", "\n".join(lines) + "\n")


def write_benchmarks(data: Path) -> Path:
    """Write all six."""
    write_gqa(data)
    write_pope(data)
    write_mme(data)
    write_scienceqa(data)
    write_textvqa(data)
    write_mmbench(data)
    return data
