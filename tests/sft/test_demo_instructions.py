"""The demo's instructions and its verdict: true answers, nothing shared with what is held out."""

import importlib
import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.template import read_template
from mobilellama.sft.main import main as sft_main

DEMO = Path(__file__).parents[2] / "demo"


@pytest.fixture(scope="module")
def demo() -> Any:
    """The demo's modules by name; they are a script's neighbours and no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DEMO)
        yield importlib.import_module


@pytest.fixture(scope="module")
def made(demo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, library = tmp_path_factory.mktemp("instructions"), tmp_path_factory.mktemp("library")
    for path in demo("corpus").LIBRARY.glob("[a-t]*.py"):  # all of it takes a few seconds
        (library / path.name).symlink_to(path)
    demo("instructions").build_instructions(folder, library=library)
    return folder


@pytest.fixture(scope="module")
def trained_on(made: Path) -> list[dict[str, Any]]:
    return json.loads((made / "train.json").read_text())


@pytest.fixture(scope="module")
def asked(demo: Any, made: Path) -> list[dict[str, str]]:
    return demo("report").read_rows(made / "heldout.jsonl")


def test_what_is_said_of_an_object_is_what_python_says(trained_on: list[dict[str, Any]]) -> None:
    modules, found = ("argparse", "inspect", "logging", "queue", "shutil", "tarfile"), 0
    for record in trained_on:
        module, _, path = record["id"].partition(".")
        if module not in modules or not hasattr(importlib.import_module(module), path):
            continue
        value = getattr(importlib.import_module(module), path)
        kind = "function"
        if inspect.isclass(value):
            kind = "exception" if issubclass(value, BaseException) else "class"
        access = "private" if "._" in record["id"] else "public"
        said = {turn["value"] for turn in record["conversations"]}
        assert f"It is a {access} {kind}." in said, record
        found += 1
    assert found > 20


def test_no_name_is_both_trained_on_and_held_out(
    trained_on: list[dict[str, Any]], asked: list[dict[str, str]]
) -> None:
    trained = [record["id"].rpartition(".")[2] for record in trained_on]
    heldout = [row["prompt"].split("`")[1].rpartition(".")[2] for row in asked]
    assert len(trained) > 1_000 and len(heldout) == 200
    assert len({*trained, *heldout}) == len(trained) + len(heldout)


def test_no_single_answer_is_right_often(demo: Any, made: Path) -> None:
    assert demo("report").constant_match(made / "heldout.jsonl") < 0.3


def test_both_questions_come_first_about_equally_often(trained_on: list[dict[str, Any]]) -> None:
    first = [record["conversations"][0]["value"].startswith("What kind") for record in trained_on]
    assert 0.45 < sum(first) / len(first) < 0.55


LIBRARY = r'''"""A module."""

class Shelf(Exception):
    """Holds books. And more.

    Much more.
    """

    class _Board:
        """Carries some of them, doesn't it? Yes."""

        def bend(self): "Give way a little,\n    but not much."

class Empty(Shelf, int): "No book is on it."

async def _open(self): "Open version 1.5 of it! Now."

def shut(): "no sentence"
def silent(): pass
def __init__(): "Starts the whole thing."
'''


def test_definitions_give_a_name_a_kind_and_a_first_sentence(demo: Any, tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books/__init__.py").write_text(LIBRARY)
    (tmp_path / "later.py").write_text('class Shelf: "Another of this name."\n')
    (tmp_path / "worse.py").write_text("def (")
    found = demo("instructions").find_subjects(tmp_path)
    assert [(subject.name, subject.kind_answer, subject.purpose) for subject in found] == [
        ("books.Shelf", "It is a public exception.", "Holds books."),
        ("books.Shelf._Board", "It is a private class.", "Carries some of them, doesn't it?"),
        ("books.Shelf._Board.bend", "It is a private method.", "Give way a little, but not much."),
        ("books.Empty", "It is a public exception.", "No book is on it."),
        ("books._open", "It is a private function.", "Open version 1.5 of it!"),
    ]


def test_an_answer_is_taken_so_often_at_most_and_the_rest_is_left_out(
    demo: Any, tmp_path: Path
) -> None:
    """Which ones is drawn by their names, so that no machine takes others."""
    (tmp_path / "m.py").write_text("".join(f'def f{i}(): "Do the thing."\n' for i in range(9)))
    build = demo("instructions").build_instructions
    assert build(tmp_path / "out", library=tmp_path, most_of_an_answer=5, heldout=2) == 3
    trained = json.loads((tmp_path / "out/train.json").read_text())
    (asked,) = {row["expected"] for row in demo("report").read_rows(tmp_path / "out/heldout.jsonl")}
    assert asked == "It is a public function."
    assert [record["id"] for record in trained] == ["m.f2", "m.f0", "m.f6"]


def test_every_conversation_is_kept_and_fits_the_demos_context(
    made: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    fields = {
        "data.path": made / "train.json", "tokenizer": small_tokenizer, "seq_len": 256,
        "template": DEMO / "chat.yaml", "output": tmp_path / "chats", "workers": 1,
    }  # fmt: skip
    argv = [part for name, value in fields.items() for part in (f"--{name}", str(value))]
    assert sft_main(["prepare", *argv]) == 0
    report = json.loads((tmp_path / "chats/report.json").read_text())
    assert (report["dropped"], report["mended"]) == ({}, {})
    assert report["conversations"] == report["parts"] == report["records"] > 1_000


def test_the_template_is_vicunas_with_another_system_text() -> None:
    template, turns = read_template(str(DEMO / "chat.yaml")), [Turn("user", "Who?")]
    vicuna = read_template("vicuna_v1")
    assert template.default_system == "A chat about Python."
    assert replace(template, default_system=vicuna.default_system).sha256 == vicuna.sha256
    asking = "".join(segment.text for segment in template.segments(turns, generate=True)[1:])
    assert asking == "A chat about Python. USER: Who? ASSISTANT:"


def test_the_matches_are_those_counted_by_hand(demo: Any, tmp_path: Path) -> None:
    report = demo("report")
    rows = [("a", "a"), ("a", "b"), ("a", "A"), ("b", "b"), ("c", "")]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps({"expected": e, "answer": a}) + "\n" for e, a in rows))
    assert report.exact_match(path) == pytest.approx(2 / 5)
    assert report.constant_match(path) == pytest.approx(3 / 5)


def test_the_demo_fails_where_something_was_not_learnt(demo: Any) -> None:
    good = demo("report").Learnt(
        entropy=6.4, training_loss=4.0, heldout_loss=4.1, answer_loss_before=4.5,
        answer_loss_after=2.8, match_before=0.0, match_after=0.8, match_constant=0.2,
    )  # fmt: skip
    assert good.shortfalls() == []
    for fields, words in (
        ({"heldout_loss": 5.5}, "1 nat below the unigram entropy"),
        ({"answer_loss_after": 3.6}, "1 nat off the loss of held-out answers"),
        ({"match_after": 0.39}, "twice the base model's and the best single answer's"),
        ({"match_before": 0.41}, "twice the base model's and the best single answer's"),
        ({"answer_loss_after": float("nan")}, "loss of held-out answers"),
    ):
        (shortfall,) = replace(good, **fields).shortfalls()
        assert words in shortfall
