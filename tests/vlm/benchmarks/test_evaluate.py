"""The command: six benchmarks asked and scored, gone on with when stopped, refused when mixed.

The model is ``Clerk``: no network, but all that an assistant promises. It decodes each image,
wants one ``<image>`` for each, answers each question on its own, and gives at most
``max_new_tokens`` words.
"""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.hf.fingerprint import identify
from mobilellama.vlm.benchmarks.all import BENCHMARKS
from mobilellama.vlm.benchmarks.evaluate import (
    as_the_original_logs_it,
    dtype_as_published,
)
from mobilellama.vlm.benchmarks.published_scores import AVERAGED
from mobilellama.vlm.chat.assistant import load
from mobilellama.vlm.chat.question import Question, Reply
from mobilellama.vlm.data.images import ImageError
from mobilellama.vlm.main import main
from tests.pretrain.conftest import Command, Outcome
from tests.vlm.helpers.benchmark_files import mmbench_row, write_benchmarks, write_mmbench
from tests.vlm.helpers.evaluating import KNOWS_ALL, QUESTIONS, Clerk, Evaluate, write_model

"""Of the six of MobileVLM's tables. These tests ask no others."""


class Cut(Clerk):
    """Answers as Clerk does, but says that an answer about this image was cut off."""

    image = "existence_0000.v2.png"

    def _answer(self, question: Question, max_new_tokens: int) -> Reply:
        reply = super()._answer(question, max_new_tokens)
        names = [image.name for image in question.images if isinstance(image, Path)]
        cut = self.image in names and "not here" in question.text
        return replace(reply, finish="length") if cut else reply


"""The right answers; of "How many bottles?" six people say 3."""


def printed(out: str, model: str = "model") -> dict[str, str]:
    """Return a model's row of the printed table, by heading."""
    lines = out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.split()[-1:] == ["average"])
    row = next(line for line in lines[head:] if line.startswith(model))
    cells = row.removeprefix(model).split()
    return dict(zip(lines[head].split(), cells, strict=True))


def test_a_model_that_knows_all_gets_all(run: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    """TextVQA's best answers are worth 1 each; the average is (5 * 100 + 2000 / 20) / 6."""
    assert run(Clerk(KNOWS_ALL)) == 0
    found = run.scores()
    assert {name: its["score"] for name, its in found["benchmarks"].items()} == {
        "gqa": 100.0, "scienceqa": 100.0, "textvqa": pytest.approx(100.0), "pope": 100.0,
        "mme": 2000.0, "mmbench": 100.0,
    }  # fmt: skip
    assert {name: its["questions"] for name, its in found["benchmarks"].items()} == QUESTIONS
    assert found["average"] == pytest.approx(100.0)
    out = capsys.readouterr().out
    assert "GQA: 100.00 (accuracy, %; 4 questions)" in out
    assert printed(out).items() >= {
        "GQA": "100.0", "SQA-I": "100.0", "VQA-T": "100.0", "POPE": "100.0", "MME-P": "2000.0",
        "MMB-dev": "100.0", "average": "100.0",
    }.items()  # fmt: skip
    assert printed(out, "MobileVLM 1.7B").items() >= {
        "GQA": "56.1", "SQA-I": "57.3", "VQA-T": "41.5", "POPE": "84.5", "MME-P": "1196.2",
        "MMB-dev": "53.2", "average": "58.7",
    }.items()  # fmt: skip


def test_a_model_that_says_yes_to_all_gets_what_that_is_worth(run: Evaluate) -> None:
    """POPE: precision 1/2, recall 1, F1 2/3 in each category; MME: half of the questions."""
    assert run(Clerk()) == 0
    scores = {name: its["score"] for name, its in run.scores()["benchmarks"].items()}
    assert scores == {
        "gqa": 0.0, "scienceqa": 0.0, "textvqa": 0.0, "pope": pytest.approx(200 / 3),
        "mme": 500.0, "mmbench": 0.0,
    }  # fmt: skip


def test_answers_are_kept_as_llavas_scorers_read_them(run: Evaluate) -> None:
    run(Clerk(KNOWS_ALL), tasks=["gqa", "scienceqa"])
    assert run.rows("gqa")[0] == {
        "question_id": "20",
        "prompt": "Is it overcast?\nAnswer the question using a single word or phrase.",
        "text": "No.",
        "model_id": "model",
        "finish": "stop",
    }
    assert run.rows("scienceqa")[0]["prompt"].startswith("<image>\nContext: N/A")
    assert run.scores()["average"] is None


def test_each_benchmark_is_asked_with_the_originals_limit_and_images(run: Evaluate) -> None:
    clerk = Clerk()
    run(clerk, batch_size=100)
    assert clerk.calls == [
        (4, 128, None), (4, 1024, "square"), (3, 128, None), (8, 128, None), (28, 128, None),
        (5, 1024, None),
    ]  # fmt: skip
    assert list(QUESTIONS) == list(AVERAGED)


@pytest.mark.parametrize(
    ("aspect_ratio", "expected"), [("model", None), ("pad", "pad"), ("square", "square")]
)
def test_images_and_the_limit_of_answers_can_be_chosen(
    run: Evaluate, aspect_ratio: str, expected: str | None
) -> None:
    clerk = Clerk({"": "one two three"})
    run(clerk, tasks=["scienceqa", "pope"], aspect_ratio=aspect_ratio, max_new_tokens=2)
    assert {call[1:] for call in clerk.calls} == {(2, expected)}
    assert {row["text"] for row in run.rows("pope")} == {"one two"}


def test_a_stopped_call_goes_on_where_it_was_and_gives_the_same(
    run: Evaluate, data: Path, model: Path, tmp_path: Path
) -> None:
    whole = Evaluate(data, model, tmp_path / "whole")
    whole(Clerk(KNOWS_ALL), batch_size=3)

    def stop(batches: int) -> None:
        if batches == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    assert run(Clerk(KNOWS_ALL, stop), batch_size=3) == 130
    assert len(run.rows("scienceqa")) == 3  # after two batches of GQA's
    second = Clerk(KNOWS_ALL)
    assert run(second, batch_size=3) == 0
    assert len(second.asked) == sum(QUESTIONS.values()) - 4 - 3
    for name in QUESTIONS:
        assert run.rows(name) == whole.rows(name)


def test_a_torn_last_line_is_asked_again(run: Evaluate) -> None:
    run(Clerk(KNOWS_ALL), tasks=["mmbench"])
    path = run.output / "mmbench.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    clerk = Clerk(KNOWS_ALL)
    assert run(clerk, tasks=["mmbench"]) == 0
    assert len(clerk.asked) == 1
    assert path.read_bytes() == whole


def test_nothing_left_to_ask_loads_no_model(run: Evaluate) -> None:
    run(Clerk(KNOWS_ALL))
    before = run.scores()
    assert run(None) == 0
    assert run.scores()["average"] == before["average"]


def test_a_trial_is_no_measurement_and_the_whole_goes_on_from_it(
    run: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(Clerk(KNOWS_ALL), limit=2) == 0
    assert (
        "Only the first 2 questions of each (--limit): not a measurement."
        in capsys.readouterr().out
    )
    found = run.scores()
    assert found["average"] is None
    assert found["benchmarks"]["gqa"]["questions"] == 2
    assert found["benchmarks"]["mme"]["score"] is None
    assert not (run.output / "submissions").exists()
    clerk = Clerk(KNOWS_ALL)
    assert run(clerk) == 0
    assert len(clerk.asked) == sum(QUESTIONS.values()) - 6 * 2
    assert run.scores()["average"] == pytest.approx(100.0)
    assert run(None, limit=1) == 0  # of a whole file the first
    assert run.scores()["benchmarks"]["gqa"]["questions"] == 1
    assert len(run.rows("gqa")) == 4


NOTHING = {"": ""}
"""What a model knows that answers nothing."""


def test_a_model_that_answers_nothing_gets_no_score_unless_it_is_asked_for(
    run: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    """POPE's rule takes "" for yes, which is worth 66.67."""
    assert run(Clerk(NOTHING), tasks=["pope"]) == 0
    pope = run.scores()["benchmarks"]["pope"]
    why = "8 of 8 answers are incomplete, 100.00 % (8 empty)"
    assert (pope["score"], pope["tables"], pope["withheld"]) == (None, {}, True)
    assert pope["incomplete"] == why
    assert pope["answers"] == {
        "asked": 8, "missing": 0, "without_room": 0, "empty": 8, "cut_off": 0,
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "66.67" not in out
    assert "POPE: withheld (mean F1 of the categories, %; 8 questions)" in out
    row = printed(out)
    assert row.pop("POPE") == "withheld" and {*row.values()} == {"-"}
    remedy = "--show_withheld shows it anyway."
    assert out.count(f"POPE is withheld: {why}. {remedy}") == 2
    # Asked for, it is scored of the answers that are there, and marked.
    assert run(None, tasks=["pope"], show_withheld=True) == 0
    pope = run.scores()["benchmarks"]["pope"]
    assert pope["score"] == pytest.approx(200 / 3) and not pope["withheld"]
    assert pope["tables"]["by choice of objects"]["random"]["neither"] == 2
    out = capsys.readouterr().out
    assert "POPE: 66.67* (" in out and f"* POPE: {why}." in out and " 66.7* " in out
    assert "8 answers say neither yes nor no; as in the original, they count as yes." in out
    # And without the wish it is withheld again.
    assert run(None, tasks=["pope"]) == 0
    assert run.scores()["benchmarks"]["pope"]["score"] is None


def test_a_few_answers_that_are_none_mark_the_score_and_the_average(
    run: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of MME's 28 answers is 3.57 %."""
    assert run(Cut(KNOWS_ALL)) == 0
    found = run.scores()["benchmarks"]
    assert found["mme"]["answers"]["cut_off"] == 1
    assert found["mme"]["incomplete"] == "1 of 28 answers are incomplete, 3.57 % (1 cut off)"
    assert found["mme"]["score"] is not None and not found["mme"]["withheld"]
    assert found["gqa"]["incomplete"] is None
    out = capsys.readouterr().out
    assert "* MME-P: 1 of 28 answers are incomplete, 3.57 % (1 cut off)." in out
    row = printed(out)
    assert [row[title] for title in ("MME-P", "MMB-dev", "average")] == [
        "2000.0*", "100.0", "100.0*",
    ]  # fmt: skip
    assert run.rows("mme")[1]["finish"] == "length"


def test_answers_and_scores_of_a_former_version_are_read(
    run: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows without "finish", and scores without counts."""
    run(Clerk(KNOWS_ALL), tasks=["gqa", "pope"])
    path = run.output / "pope.jsonl"
    rows = run.rows("pope")
    lines = [{name: value for name, value in row.items() if name != "finish"} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    stored = run.scores()
    for name in ("answers", "incomplete", "withheld"):
        del stored["benchmarks"]["gqa"][name]
    (run.output / "scores.json").write_text(json.dumps(stored))
    capsys.readouterr()
    assert run(None, tasks=["pope"]) == 0
    assert run.scores()["benchmarks"]["pope"]["answers"]["cut_off"] is None
    assert run.scores()["benchmarks"]["pope"]["score"] == 100.0
    row = printed(capsys.readouterr().out)
    assert {title for title, cell in row.items() if cell == "100.0"} == {"GQA", "POPE"}


def test_submissions_are_written_where_the_original_makes_them(run: Evaluate) -> None:
    run(Clerk(KNOWS_ALL))
    folder = run.output / "submissions"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")) == sorted(
        ["gqa/testdev_balanced_predictions.json", "mmbench/mmbench.tsv"]
        + [f"mme/{row['question_id'].split('/')[0]}.txt" for row in run.rows("mme")[::2]]
    )
    predictions = json.loads((folder / "gqa/testdev_balanced_predictions.json").read_text())
    assert predictions[0] == {"questionId": "20", "prediction": "no"}


def test_every_missing_file_of_all_benchmarks_is_named_before_a_model_is_loaded(
    run: Evaluate, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        run(None, data=str(tmp_path / "empty"), tasks=["all"])
    for benchmark in BENCHMARKS.values():
        for places in benchmark.files.values():
            assert f"no {' or '.join(places)}" in str(caught.value)
    with pytest.raises(ConfigError, match="is not a folder"):
        run(None, data=str(tmp_path / "absent"))


def test_an_image_in_the_table_that_is_none_is_named(run: Evaluate, tmp_path: Path) -> None:
    write_mmbench(tmp_path, [mmbench_row(31, ["a", "b"], "A", image="QUJD")])
    with pytest.raises(ImageError, match="question 31's image: is no image"):
        run(Clerk(), data=str(tmp_path), tasks=["mmbench"])


def test_another_models_results_are_not_gone_on_with(run: Evaluate, tmp_path: Path) -> None:
    run(Clerk(KNOWS_ALL), tasks=["gqa"])
    other = str(write_model(tmp_path / "other", b"others!"))
    with pytest.raises(ConfigError, match=r"holds scores of another model, .*model"):
        run(None, model=other, tasks=["pope"])
    assert run(Clerk(), model=other, tasks=["pope"], overwrite=True) == 0
    assert list(run.scores()["benchmarks"]) == ["pope"]


def test_answers_made_with_other_settings_are_not_gone_on_with(run: Evaluate) -> None:
    run(Clerk(KNOWS_ALL), tasks=["scienceqa"])
    with pytest.raises(ConfigError, match="was made with aspect_ratio square, not pad"):
        run(None, tasks=["scienceqa"], aspect_ratio="pad")
    assert run(Clerk(), tasks=["scienceqa"], aspect_ratio="pad", overwrite=True) == 0
    assert run.scores()["benchmarks"]["scienceqa"]["settings"]["aspect_ratio"] == "pad"


def test_answers_about_other_images_are_not_gone_on_with(run: Evaluate, tmp_path: Path) -> None:
    """The same ids and prompts about other images: the second GQA question is about n2.jpg."""
    run(Clerk(KNOWS_ALL), tasks=["gqa"])
    data = write_benchmarks(tmp_path / "data")
    for path in (
        data / "gqa/llava_gqa_testdev_balanced.jsonl",
        data / "gqa/data/testdev_balanced_questions.json",
    ):
        path.write_text(path.read_text().replace("n1", "n2"))
    with pytest.raises(ConfigError, match=r"was made with images_sha256 .*, not .*Give anoth"):
        run(None, tasks=["gqa"], data=str(data))
    # An output of a former version does not say; it is gone on with.
    meta = run.output / "gqa.jsonl.meta.json"
    stored = json.loads(meta.read_text())
    del stored["images_sha256"]
    meta.write_text(json.dumps(stored))
    assert run(None, tasks=["gqa"], data=str(data)) == 0


def test_a_foreign_scores_file_is_refused(run: Evaluate) -> None:
    run.output.mkdir()
    model = {"path": "model", "sha256": identify(str(run.fields["model"]))}
    for benchmarks in (None, [], {"gqa": 7}, {"gqa": {"score": "9", "settings": {}}},
                       {"gqa": {"score": 9}}, {"gqa": {"score": 9, "settings": []}}):  # fmt: skip
        text = json.dumps({"model": model, "benchmarks": benchmarks} if benchmarks else [])
        (run.output / "scores.json").write_text(text)
        with pytest.raises(ConfigError, match=r"holds a scores.json that 'vlm evaluate' has not"):
            run(None)


@pytest.mark.parametrize(
    ("dtype", "device", "taken"),
    [
        ("auto", "cuda", "fp16"),
        ("bf16", "cuda", "bf16"),
        ("fp32", "cuda", "fp32"),
        ("auto", "cpu", "auto"),
        ("fp16", "cpu", "fp16"),
    ],
)
def test_on_a_gpu_scores_are_of_the_published_dtype(
    dtype: Literal["auto", "bf16", "fp16", "fp32"], device: str, taken: str
) -> None:
    assert dtype_as_published(dtype, device) == taken


def test_answers_are_stripped_as_the_original_does() -> None:
    assert as_the_original_logs_it("  yes </s>\n") == "yes"
    assert as_the_original_logs_it("</s> yes") == "</s> yes"
    assert as_the_original_logs_it("") == ""


def test_the_help_says_where_each_benchmarks_files_lie(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for name, benchmark in BENCHMARKS.items():
        assert f"\n    {name:<11}{benchmark.files['questions'][0]}" in out
    assert f"{', '.join(BENCHMARKS)}; or all" in " ".join(out.split())


def test_the_command_asks_a_real_model_and_goes_on_with_the_same_alone(
    command: Command, assistant_folder: Path, data: Path, tmp_path: Path
) -> None:
    given = {"model": assistant_folder, "data": data, "output": tmp_path / "out", "device": "cpu"}
    given |= {"tasks": ["gqa", "pope", "mmbench"], "max_new_tokens": 5}

    def run(**fields: Any) -> Outcome:
        arguments = [
            part for name, value in (given | fields).items() for part in (f"--{name}", value)
        ]
        return command("vlm", "evaluate", *arguments)

    outcome = run(batch_size=3)
    assert outcome.code == 0, outcome.err
    assert "GQA" in outcome.out and "POPE" in outcome.out
    rows = [json.loads(line) for line in (tmp_path / "out" / "gqa.jsonl").open()]
    model = load(assistant_folder, device="cpu")
    gqa = BENCHMARKS["gqa"].questions(data)
    expected = [model.answer(one.images[0], one.text, max_new_tokens=5) for one in gqa]
    assert [row["text"] for row in rows] == [as_the_original_logs_it(text) for text in expected]
    assert len({*expected}) > 1
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    settings = found["benchmarks"]["gqa"]["settings"]
    assert settings["dtype"] == "float32" and settings["quantization"] == "none"
    assert "was made with dtype float32, not bfloat16" in run(dtype="bf16").err
    assert run(batch_size=1).code == 0


def test_a_real_model_whose_context_the_questions_fill_gets_no_score(
    command: Command, assistant_folder: Path, tmp_path: Path
) -> None:
    """The context is 256 tokens, and every question of POPE has more words than that."""
    data = write_benchmarks(tmp_path / "data")
    for path in [data / "pope/llava_pope_test.jsonl", *(data / "pope/coco").iterdir()]:
        path.write_text(path.read_text().replace(" in the image?", " or not" * 150 + "?"))
    arguments = ["--model", assistant_folder, "--data", data, "--output", tmp_path / "out"]
    outcome = command("vlm", "evaluate", "--tasks", "pope", *arguments, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    why = "8 of 8 answers are incomplete, 100.00 % (8 without room)"
    assert f"POPE is withheld: {why}." in outcome.out
    assert "fill the context of 256 tokens" in outcome.err
    pope = json.loads((tmp_path / "out" / "scores.json").read_text())["benchmarks"]["pope"]
    assert pope["score"] is None and pope["answers"]["without_room"] == 8
