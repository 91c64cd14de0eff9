"""What is asked: fields, images and the number of questions, before a model is loaded."""

from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.vlm.benchmarks.plan import PUBLISHED_QUESTIONS, Config
from tests.vlm.helpers.benchmark_files import write_benchmarks
from tests.vlm.helpers.evaluating import KNOWS_ALL, Clerk, Evaluate


def test_missing_images_are_counted_before_a_model_is_loaded(run: Evaluate, tmp_path: Path) -> None:
    data = write_benchmarks(tmp_path / "data")
    (data / "gqa/data/images/n2.jpg").unlink()
    with pytest.raises(ConfigError, match=r"lacks 1 of 2 images \(.*images/n2.jpg\)"):
        run(None, data=str(data))
    assert run(Clerk(), data=str(data), tasks=["gqa"], limit=2) == 0  # which do not need it


def test_another_number_of_questions_than_published_is_told(
    run: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert run(Clerk(KNOWS_ALL), tasks=["gqa", "pope"]) == 0
    odd = "4 questions, but the published benchmark has 12,578"
    out = capsys.readouterr().out
    assert f"Not comparable with the published scores: {odd}." in out
    assert f"GQA is of {odd}: not a measurement." in out
    assert "POPE is of" not in out  # whose number no source states
    assert f"gqa of {run.fields['data']}: {odd}" in caplog.text
    assert odd in run.scores()["benchmarks"]["gqa"]["notes"][-1]
    monkeypatch.setitem(PUBLISHED_QUESTIONS, "gqa", 4)
    assert run(None, tasks=["gqa"]) == 0
    assert "no measurement" not in capsys.readouterr().out.lower()
    assert run.scores()["benchmarks"]["gqa"]["notes"] == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": ["gqa", "pop"]}, "'pop' must be one of gqa, .*did you mean 'pope'"),
        ({"tasks": []}, r"tasks = \(empty\): must name each benchmark once"),
        ({"tasks": ["gqa", "gqa"]}, "tasks = gqa,gqa: must name each benchmark once"),
        ({"batch_size": 0}, "batch_size = 0: must be at least 1"),
        ({"limit": 0}, "limit = 0: must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0: must be at least 1"),
        ({"model": "/nowhere"}, "model = /nowhere: is not a folder"),
    ],
)
def test_a_field_that_makes_no_sense_is_refused(
    run: Evaluate, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(**(run.fields | fields))


def test_an_output_that_is_a_file_is_refused(run: Evaluate) -> None:
    run.output.write_text("")
    with pytest.raises(ConfigError, match=r"output = .*: is not a folder"):
        Config(**run.fields)
