"""Files of questions about images: as single questions, in order, gone on with, errors by row."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mobilellama.vlm.chat.assistant import Assistant
from mobilellama.vlm.chat.generate import fingerprint
from tests.pretrain.conftest import Command, Outcome
from tests.vlm.helpers.assistants import picture

WORDS = "the file is opened and its lines are read one after another by the loop".split()


def write_rows(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def row_of(number: int) -> dict[str, Any]:
    """Rows with no image, one, or two, of various lengths."""
    text = " ".join(WORDS[(number + n) % len(WORDS)] for n in range(number * 7 % 23 + 1))
    images = {0: [], 1: [number % 8], 2: [number % 8, (number + 3) % 8]}[number % 3]
    row: dict[str, Any] = {"question_id": number, "text": "<image>\n" * len(images) + text}
    if images:
        names = [f"{image}.png" for image in images]
        row["image"] = names[0] if len(names) == 1 else names
    return row


def alone(assistant: Assistant, row: dict[str, Any]) -> str:
    names = row.get("image", [])
    images = [picture(int(name[0])) for name in ([names] if isinstance(names, str) else names)]
    return assistant.answer(images, row["text"], max_new_tokens=12)


class Generate:
    """The command, on one folder, with one input and output."""

    def __init__(self, command: Command, model: Path, images: Path, folder: Path) -> None:
        self.command, self.model, self.images = command, model, images
        self.input, self.output = folder / "questions.jsonl", folder / "answers.jsonl"

    def __call__(self, **fields: Any) -> Outcome:
        given = {"model": self.model, "input": self.input, "output": self.output, "device": "cpu"}
        given |= {"images": self.images, "max_new_tokens": 12} | fields
        given = {name: value for name, value in given.items() if value is not None}
        return self.command(
            "vlm", "generate", *[part for n, value in given.items() for part in (f"--{n}", value)]
        )

    def rows(self, **fields: Any) -> list[dict[str, Any]]:
        outcome = self(**fields)
        assert outcome.code == 0, outcome.err
        return read_rows(self.output)


@pytest.fixture
def generate(command: Command, assistant_folder: Path, pictures: Path, tmp_path: Path) -> Generate:
    return Generate(command, assistant_folder, pictures, tmp_path)


def test_batches_answer_each_question_as_if_it_were_alone(
    generate: Generate, assistant: Assistant
) -> None:
    rows = [row_of(number) for number in range(13)]
    write_rows(generate.input, rows)
    expected = [alone(assistant, row) for row in rows]
    assert len({*expected}) > 10
    for batch_size in (1, 4, 13):
        answered = generate.rows(batch_size=batch_size, overwrite=True)
        assert [row["answer"] for row in answered] == expected
        kept = [
            {name: row[name] for name in asked} for row, asked in zip(answered, rows, strict=True)
        ]
        assert kept == rows
        assert {row["finish"] for row in answered} <= {"length", "stop"}


def test_every_shape_of_row_asks_the_same(generate: Generate, assistant: Assistant) -> None:
    said = "What is it?"
    turns = [{"from": "human", "value": f"<image>\n{said}"}, {"from": "gpt", "value": "A dog."}]
    rows: list[dict[str, Any]] = [
        {"question_id": "a", "image": "0.png", "text": f"<image>\n{said}"},
        {"question_id": "b", "image": "0.png", "text": said},
        {"image": ["0.png"], "text": f"{said}\n<image>", "category": {"x": 1}},
        {"image": "0.png", "conversations": turns},
        {"image": "./1/../0.png", "messages": [{"role": "user", "content": said}]},
    ]
    write_rows(generate.input, rows)
    answered = generate.rows()
    assert {row["answer"] for row in answered} == {
        assistant.answer(picture(0), said, max_new_tokens=12)
    }
    added = {"answer", "finish", "tokens"}
    assert [{k: v for k, v in row.items() if k not in added} for row in answered] == rows


def test_images_of_a_conversation_stay_where_they_are_placed(
    generate: Generate, assistant: Assistant
) -> None:
    from mobilellama.pretrain.generation.sampling import Sampling
    from mobilellama.sft.data.conversation import Turn

    said = [("user", "What is <image> beside <image>?"), ("assistant", "A dog."),
            ("user", "<image>\nAnd this?")]  # fmt: skip
    messages = [{"role": role, "content": content} for role, content in said]
    write_rows(generate.input, [{"image": ["0.png", "4.png", "2.png"], "messages": messages}])
    [row] = generate.rows()
    turns = [Turn(role, content) for role, content in said]  # type: ignore[arg-type]
    [expected] = assistant.decode(
        [assistant.tokenizer.prompt(turns)],
        [assistant.pixels(picture(number)) for number in (0, 4, 2)],
        limits=[12], sampling=Sampling(), seeds=[None],
    )  # fmt: skip
    assert row["answer"] == assistant.tokenizer.text(expected.ids)


def test_a_row_with_a_broken_image_says_so_and_the_others_are_answered(
    generate: Generate, assistant: Assistant, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(generate.images, images)
    (images / "1.png").write_bytes((images / "1.png").read_bytes()[:60])
    (images / "2.png").unlink()
    text = "What is it?"
    names: list[Any] = ["0.png", "1.png", ["3.png", "2.png"], "4.png"]
    rows = [{"image": name, "text": text} for name in names] + [{"text": text}]
    write_rows(generate.input, rows)
    outcome = generate(images=images, batch_size=3)
    assert outcome.code == 1
    answered = read_rows(generate.output)
    assert [row["finish"] == "image_error" for row in answered] == [False, True, True, False, False]
    assert f"{images / '1.png'}: is truncated or damaged" in answered[1]["error"]
    assert f"{images / '2.png'}: is not there" in answered[2]["error"]
    assert [(row["answer"], row["tokens"]) for row in answered[1:3]] == [("", 0)] * 2
    for i in (0, 3, 4):
        assert answered[i]["answer"] == alone(assistant, rows[i])
        assert "error" not in answered[i]
    assert "2 rows have an image that cannot be read" in outcome.err
    assert "2 image_error" in outcome.out
    again = generate(images=images)  # nothing is left to answer, and it is still told
    assert (again.code, read_rows(generate.output)) == (1, answered)


def test_a_prompt_is_as_long_as_its_images_make_it(generate: Generate) -> None:
    """12 images of 16 tokens leave of 256 no room beside the system text."""
    many = {"image": [f"{n % 8}.png" for n in range(12)], "text": "Which?"}
    write_rows(generate.input, [many, {"image": "0.png", "text": "Which?"}])
    rows = generate.rows()
    assert [row["finish"] for row in rows] == ["too_long", rows[1]["finish"]]
    assert rows[1]["tokens"] > 0


def test_a_torn_output_is_finished_with_the_same_bytes(generate: Generate) -> None:
    write_rows(generate.input, [row_of(number) for number in range(7)])
    warm = {"temperature": 1.0, "batch_size": 2}
    generate.rows(**warm)
    whole = generate.output.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (0, len(lines[0]) + 9, len(whole) - 1):
        generate.output.write_bytes(whole[:cut])
        assert generate(**warm).code == 0
        assert generate.output.read_bytes() == whole


def test_an_output_made_otherwise_is_refused(generate: Generate, tmp_path: Path) -> None:
    write_rows(generate.input, [row_of(1)])
    generate.rows()
    before = generate.output.read_bytes()
    other = tmp_path / "other"
    shutil.copytree(generate.model, other)
    (other / "preprocessor_config.json").write_text("{}")
    for fields, message in (
        ({"template": "plain"}, "was made with template "),
        ({"dtype": "bf16"}, "was made with dtype float32, not bfloat16"),
        ({"quantization": "4bit"}, "was made with quantization none, not 4bit"),
        ({"model": other}, "was made with model_sha256 "),
        ({"model": other, "dtype": "bf16"}, ": by another model. Give that model, another"),
    ):
        outcome = generate(**fields)
        assert outcome.code == 2 and message in outcome.err
        assert generate.output.read_bytes() == before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "0.png", "text": "<image> <image>"}, "1 image, 2 <image>"),
        ({"text": "<image>\nWhat?"}, "has <image> in a question, but no image"),
        ({"images": ["0.png"], "text": "<image>"}, "'images' is not read; 'image' may be a list"),
        ({"images": ["0.png"], "text": "a"}, "'images' is not read; 'image' may be a list"),
        ({"image": "../0.png", "text": "a"}, "has an image outside the images' folder (../0.png)"),
        ({"image": "/etc/0.png", "text": "a"}, "has an image outside the images' folder"),
        ({"image": 3, "text": "a"}, "neither a path nor a list of paths"),
        ({"image": "0.png"}, "must have one of text, messages, conversations; it has image"),
        ({"text": "a", "error": ""}, "has the field error, which the output adds"),
        (
            {"image": "0.png", "messages": [{"role": "system", "content": "<image>"},
                                            {"role": "user", "content": "a"}]},
            "in a turn that is not a question",
        ),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_before_a_model_is_loaded(
    generate: Generate, row: dict[str, Any], message: str
) -> None:
    write_rows(generate.input, [{"text": "fine"}, row])
    outcome = generate()
    assert outcome.code == 2
    assert f"{generate.input}:2" in outcome.err and message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not generate.output.exists()


def test_other_images_of_the_same_names_are_not_gone_on_with(
    generate: Generate, tmp_path: Path
) -> None:
    write_rows(generate.input, [{"image": f"{n}.png", "text": "What?"} for n in range(8)])
    generate.rows()
    whole = generate.output.read_bytes()
    generate.output.write_bytes(whole[: whole.index(b"\n") + 1])
    others, moved = tmp_path / "others", tmp_path / "moved"
    shutil.copytree(generate.images, others)
    shutil.copyfile(others / "3.png", others / "5.png")
    outcome = generate(images=others)
    assert outcome.code == 2 and "was made with images_sha256 " in outcome.err
    shutil.copytree(generate.images, moved)
    assert generate(images=moved).code == 0
    assert generate.output.read_bytes() == whole


def test_a_fingerprint_is_of_evenly_spaced_images_and_takes_any_path(tmp_path: Path) -> None:
    names = [f"{n:03}" for n in range(200)]
    for name in names:
        (tmp_path / name).write_bytes(b"image")
    before = fingerprint(tmp_path, names)
    (tmp_path / "001").write_bytes(b"longer")  # int(200 / 64 * i) is 0, 3, 6, 9, 12, 15, ...
    assert fingerprint(tmp_path, names) == before
    (tmp_path / "003").write_bytes(b"other")  # as long as before
    assert fingerprint(tmp_path, names) != before
    os.mkfifo(tmp_path / "pipe")
    odd = ["pipe", "absent", "n" * 300]
    assert fingerprint(tmp_path, odd) == fingerprint(tmp_path, odd) != before


def test_an_image_that_cannot_be_opened_costs_its_row_alone(
    generate: Generate, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(generate.images, images)
    os.mkfifo(images / "pipe.png")
    (images / "loop.png").symlink_to("loop.png")
    names = ["0.png", "pipe.png", "loop.png", "n" * 300]
    write_rows(generate.input, [{"image": name, "text": "What?"} for name in names])
    outcome = generate(images=images)
    assert outcome.code == 1
    fine, *others = read_rows(generate.output)
    assert fine["finish"] != "image_error"
    assert [row["finish"] for row in others] == ["image_error"] * 3
    for row, what in zip(others, ("is a pipe", "symbolic links", "name too long"), strict=True):
        assert what in row["error"] and len(row["error"]) < 400


def test_the_folder_of_images_is_wanted_where_a_row_has_one(
    generate: Generate, tmp_path: Path
) -> None:
    write_rows(generate.input, [{"text": "a"}])
    assert len(generate.rows(images=None)) == 1
    write_rows(generate.input, [{"text": "a"}, {"image": "0.png", "text": "a"}])
    assert f"is not given, but {generate.input}:2 has an image" in generate(images=None).err
    assert "does not exist" in generate(images=tmp_path / "absent").err
    assert "is a file" in generate(images=generate.input).err
