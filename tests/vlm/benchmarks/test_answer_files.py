"""'vlm evaluate --answers': answers made elsewhere, joined to their questions and scored."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.vlm.benchmarks.all import BENCHMARKS
from mobilellama.vlm.benchmarks.answer_files import find_answers, read_answers
from mobilellama.vlm.benchmarks.benchmark import Asked
from mobilellama.vlm.main import main
from tests.vlm.helpers.benchmark_files import write_benchmarks


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """All benchmarks, without their images."""
    folder = write_benchmarks(tmp_path / "benchmarks")
    for path in folder.rglob("*"):
        if path.suffix in (".jpg", ".png"):
            path.unlink()
    return folder


def write_answers(path: Path, asked: list[Asked[Any]], texts: list[str], seed: int | None) -> None:
    """Write answers as LLaVA's scripts do; in an order drawn from a seed, or the questions'."""
    rows = [
        {"question_id": one.id, "prompt": one.prompt, "text": text, "answer_id": "x",
         "model_id": "llava-v1.5-7b", "metadata": {}}
        for one, text in zip(asked, texts, strict=True)
    ]  # fmt: skip
    if seed is not None:
        random.Random(seed).shuffle(rows)
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def words(count: int) -> list[str]:
    """Return answers of which some are right and no two neighbours alike."""
    return [("Yes", "No", "A", "B", "left", "white", "3")[i % 7] for i in range(count)]


@pytest.mark.parametrize("seed", [None, 0])
def test_all_benchmarks_are_scored_whatever_the_order_of_the_lines(
    data: Path, tmp_path: Path, seed: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = {}
    for name, benchmark in BENCHMARKS.items():
        asked = benchmark.questions(data)
        texts = words(len(asked))
        write_answers(tmp_path / f"answers/{name}.jsonl", asked, texts, seed)
        wanted[name] = benchmark.score(asked, texts).score
    output = tmp_path / "results"
    arguments = ["evaluate", "--tasks", "all", "--data", str(data), "--model", "LLaVA-1.5"]
    arguments += ["--answers", str(tmp_path / "answers"), "--output", str(output)]
    assert main(arguments) == 0
    found = json.loads((output / "scores.json").read_text())
    assert {name: its["score"] for name, its in found["benchmarks"].items()} == wanted
    assert len(set(wanted.values())) > 2
    assert all(its["unanswered"] == 0 for its in found["benchmarks"].values())
    assert found["model"]["path"] == "LLaVA-1.5"
    assert "\nLLaVA-1.5 " in capsys.readouterr().out
    assert sorted(path.name for path in (output / "submissions").iterdir()) == [
        "gqa", "mmbench", "mme",
    ]  # fmt: skip
    arguments[arguments.index("LLaVA-1.5")] = "another"
    with pytest.raises(ConfigError, match=r"holds scores of another model, LLaVA-1\.5"):
        main(arguments)


def asked_of(*pairs: tuple[str | int, str]) -> list[Asked[Any]]:
    return [
        Asked(id=question_id, images=(), text="", prompt=prompt, key=None)
        for question_id, prompt in pairs
    ]


def texts_of(path: Path, asked: list[Asked[Any]]) -> list[str | None]:
    return [None if one is None else one.text for one in read_answers(path, asked)]


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*rows: dict[str, Any]) -> Path:
        path = tmp_path / "a.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def row(question_id: str | int, text: str, **more: Any) -> dict[str, Any]:
    return {"question_id": question_id, "text": text} | more


def test_questions_of_one_id_are_told_apart_by_their_prompts(write: Write) -> None:
    asked = asked_of(("x", "first?"), ("x", "second?"), (7, "third?"))
    path = write(row(7, "c"), row("x", "b", prompt="second?"), row("x", "a", prompt="first?"))
    assert texts_of(path, asked) == ["a", "b", "c"]
    path = write(row("x", "b", prompt="second?"), row("7", "c"))
    assert texts_of(path, asked) == [None, "b", "c"]


@pytest.mark.parametrize(
    "prompt",
    [
        "<image>\nIs it  red?\nAnswer the question using a single word or phrase.",
        "A chat. USER: <image>\nIs it red? ASSISTANT:",
        "is it red",
    ],
)
def test_a_prompt_may_be_logged_with_what_stands_around_the_question(
    write: Write, prompt: str
) -> None:
    instruction = "\nAnswer the question using a single word or phrase."
    asked = asked_of(("x", f"Is it blue?{instruction}"), ("x", f"Is it red?{instruction}"))
    assert texts_of(write(row("x", "b", prompt=prompt)), asked) == [None, "b"]


def test_of_questions_that_hold_one_another_the_longest_is_meant(write: Write) -> None:
    asked = asked_of(("x", "Is it"), ("x", "Is it red?"), ("x", "red?"))
    path = write(row("x", "b", prompt="USER: Is it red?"))
    assert texts_of(path, asked) == [None, "b", None]


def test_an_answer_about_another_image_is_refused(write: Write, tmp_path: Path) -> None:
    one = Asked(id=1, images=(tmp_path / "v/1.jpg",), text="", prompt="q", key=None)
    assert texts_of(write(row(1, "a", image="elsewhere/1.jpg")), [one]) == ["a"]
    message = r"a.jsonl:1: is an answer about 2.jpg, but the question 1 is about 1.jpg. Give the"
    with pytest.raises(DataError, match=message):
        read_answers(write(row(1, "a", image="2.jpg")), [one])


def test_an_answer_may_be_empty_and_the_same_question_asked_twice(write: Write) -> None:
    asked = asked_of((1, "q"), (1, "q"), (2, "q"))
    path = write(row(1, "", prompt="q"), row(1, "b", prompt="q"))
    assert texts_of(path, asked) == ["", "b", None]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(9, "a")], "a.jsonl:1: no question has the question_id 9. Give the answers to the"),
        ([row(1, "a"), row(1, "b")], ":2: the question_id 1 has more answers than questions. G"),
        ([row(2, "a", prompt="q")], ":1: answers 'q', but the question 2 is 'r'. Give the answers"),
        ([row(2, "a", prompt=7)], ":1: the field 'prompt' is a int; it must be of type str"),
        # Both would be taken for the second's, or for each other's.
        ([row(3, "a")], ":1: 2 questions have the question_id 3, but the line has no prompt to"),
        (
            [row(3, "a", prompt="s"), row(3, "b", prompt="s")],
            ":2: the question_id 3 has more answers than questions. Give",
        ),
        ([{"question_id": 1}], ":1: the field 'text' is missing; it must be of type str"),
        ([{"text": "a"}], ":1: the field 'question_id' is missing; it must be of type str or int"),
    ],
)
def test_lines_that_answer_no_question_are_named(
    write: Write, rows: list[dict[str, Any]], message: str
) -> None:
    path = write(*rows)
    with pytest.raises(DataError) as caught:
        read_answers(path, asked_of((1, "q"), (2, "r"), (3, "s"), (3, "t")))
    assert message in str(caught.value)


def test_a_file_is_one_benchmarks_and_a_folder_has_one_for_each(tmp_path: Path) -> None:
    for name in ("gqa.jsonl", "pope.jsonl"):
        (tmp_path / name).touch()
    file = tmp_path / "gqa.jsonl"
    assert find_answers(str(file), ["mme"]) == {"mme": file}
    assert find_answers(str(tmp_path), ["gqa", "pope"]) == {
        "gqa": file, "pope": tmp_path / "pope.jsonl",
    }  # fmt: skip
    for given, names, message in (
        (file, ["gqa", "pope"], "is one file, for 2 benchmarks. Name one --tasks, or give a"),
        (tmp_path, ["gqa", "mme", "textvqa"], "has no mme.jsonl, no textvqa.jsonl. Put the answer"),
        (tmp_path / "absent", ["gqa"], "is neither a file nor a folder. Fix the path"),
    ):
        with pytest.raises(ConfigError) as caught:
            find_answers(str(given), names)
        assert f"answers = {given}: {message}" in str(caught.value)


def test_our_own_files_tell_which_answers_were_cut_off(write: Write) -> None:
    path = write(row(1, "a", finish="length"), row(2, "b", finish=3))
    found = read_answers(path, asked_of((1, "q"), (2, "r")))
    assert [one and one.finish for one in found] == ["length", None]


def test_a_prompt_that_goes_on_after_the_question_is_another_question(write: Write) -> None:
    asked = asked_of((1, "Is it red?"))
    path = write(row(1, "Yes", prompt="USER: <image>\nIs it red or blue? ASSISTANT:"))
    with pytest.raises(DataError, match=r"answers 'USER: .*the question 1 is 'Is it red\?'"):
        read_answers(path, asked)


def test_lines_without_a_prompt_are_counted_and_told(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asked_of((1, "Is it red?"), (2, "Is it blue?"))
    path = write(row(1, "Yes", prompt="Is it red?"), row(2, "No"))
    assert texts_of(path, asked) == ["Yes", "No"]
    assert f"{path}: 1 lines have no prompt, and are joined by question_id alone" in caplog.text


def test_other_scripts_words_for_how_an_answer_ended_tell_nothing(write: Write) -> None:
    asked = asked_of((1, "a"), (2, "b"), (3, "c"))
    path = write(row(1, "x", finish="eos_token"), row(2, "x", finish="length"), row(3, "x"))
    found = [one and one.finish for one in read_answers(path, asked)]
    assert found == [None, "length", None]
