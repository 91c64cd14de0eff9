"""A chain of steps: what its file must be, before anything is submitted."""

from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import UserError
from mobilellama.launch.main import main
from mobilellama.launch.pipeline import remaining
from tests.launch.helpers.pipelines import EXPORT, PRETRAIN, TOKENIZE, links, write


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(values: Any, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        main(["pipeline", "--config", write(values), "--dry-run", *words])
    return str(caught.value)


def test_nested_fields_become_the_stages_options() -> None:
    [link] = links(TOKENIZE)
    assert link.request.arguments == ["--output=data", "--sources.root=corpus"]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "steps = []: holds no step"),
        (["export"], "steps[0] = export: must hold 'field: value' lines"),
        ([{"name": "x"}], "steps[0].step = (not given): is required"),
        ([EXPORT | {"agrs": {}}], "steps[0].agrs = {{}}: is not a field"),
        ([EXPORT | {"after": "export"}], "steps[0].after = export: must be a list, as [export]"),
        ([EXPORT | {"name": 5}], "steps[0].name = 5: must be a name in quotes"),
        ([EXPORT | {"args": ["a"]}], "steps[0].args = ['a']: must be 'field: value' lines"),
        ([EXPORT | {"step": "exprt"}], "steps[0].step = exprt: must be one of"),
        ([EXPORT, EXPORT], "steps[1].name = export: is the name of two steps"),
        ([EXPORT | {"after": ["x"]}], "steps[0].after = x: is not a step above this one"),
        ([EXPORT | {"after": ["export"]}], "steps[0].after = export: is not a step above"),
        ([EXPORT | {"args": None}], "steps[0] (export): --output = (not given): is required"),
        ([EXPORT | {"slurm": {"nodes": "two"}}], "steps[0] (export): slurm.nodes = two: expected"),
        ([EXPORT | {"slurm": {"time": 86400}}], "slurm.time = 86400: is a number. YAML reads"),
        ([EXPORT | {"slurm": {"env": {"A": True}}}], "slurm.env.A = true: must be a text"),
        (
            [EXPORT | {"args": {"output": "/"}}],
            "--output = /: is the current folder or one above it",
        ),
        (
            [EXPORT | {"args": {"output": ".."}}],
            "--output = ..: is the current folder or one above it",
        ),
        (
            [EXPORT, EXPORT | {"name": "b"}],
            "step b = {cwd}/model: is also the output of step export",
        ),
    ],
)
def test_a_chain_that_cannot_be_is_refused_before_anything_is_submitted(
    steps: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    assert message.format(cwd=tmp_path) in refused({"steps": steps})


def test_two_steps_whose_jobs_would_have_one_name_are_refused() -> None:
    other = EXPORT | {"name": "b", "args": {"checkpoint": "run", "output": "other/model"}}
    said = refused({"steps": [EXPORT, other]})
    assert "step b = model: would also be the name of a job of step export" in said
    said = refused({"steps": [EXPORT, PRETRAIN], "slurm": {"job_name": "same"}})
    assert "step pretrain = same: would also be the name of a job of step export" in said


def test_a_step_is_done_while_its_output_its_config_and_what_is_before_it_are_as_they_were() -> (
    None
):
    Path("recipe.yaml").write_text("train: {max_steps: 5}\n")
    train: dict[str, Any] = {
        "step": "pretrain",
        "args": {"run": {"folder": "run"}, "config": "recipe.yaml"},
    }

    def names() -> list[str]:
        return [link.name for link in remaining(links(train, EXPORT))]

    assert names() == ["pretrain", "export"]
    for link in links(train, EXPORT):
        link.request.folder.create()
        link.request.folder.made.mkdir(exist_ok=True)
        mark = link.request.folder.mark("run", "finished")
        mark.write_text(f"{link.request.launch().signature}\n")
    assert names() == []
    Path("model").rmdir()
    assert names() == ["export"]
    Path("model").mkdir()
    Path("recipe.yaml").write_text("train: {max_steps: 6}\n")
    assert names() == ["pretrain", "export"]


def test_the_scripts_name_copies_of_config_files_that_an_edit_does_not_change() -> None:
    Path("recipe.yaml").write_text("train: {max_steps: 5}\n")
    train: dict[str, Any] = {
        "step": "pretrain",
        "args": {"run": {"folder": "run"}, "config": "recipe.yaml"},
    }
    [link] = links(train)
    link.request.folder.create()
    link.request.write_configs()
    [script] = link.request.scripts()
    [copy] = Path("run/launch").glob("config-*.yaml")
    assert f"--config={copy.absolute()}" in script.text()
    Path("recipe.yaml").write_text("train: {max_steps: 6}\n")
    assert copy.read_text() == "train: {max_steps: 5}\n"
    assert f"--config={copy.absolute()}" not in links(train)[0].request.scripts()[0].text()


def test_a_file_that_is_not_there_or_not_given_is_told() -> None:
    with pytest.raises(UserError, match=r"--config = nowhere\.yaml: cannot be read"):
        main(["pipeline", "--config", "nowhere.yaml"])
    with pytest.raises(UserError, match=r"--config = \(not given\): is required"):
        main(["pipeline"])


def test_what_no_step_above_makes_must_be_there_and_all_that_lacks_is_told() -> None:
    data = {"tokenizer": "tokenizer.model", "output": "data", "sources": {"root": "corpus"}}
    train = {"config": "demo", "data": {"path": "data"}, "run": {"folder": "run"}}
    chain = [
        {"step": "tokenize", "args": data},
        {"step": "pretrain", "args": train},
        {"step": "export", "args": {"checkpoint": "run/checkpoints/step-9", "output": "model"}},
        {"step": "evaluate", "args": {"model": "./other", "output": "scores.json"}},
    ]
    said = refused({"steps": chain}).splitlines()
    assert said[0] == "nothing was submitted:"
    assert [line.partition(": does not exist")[0] for line in said[1:]] == [
        "tokenize: tokenizer = tokenizer.model",
        "evaluate: model = ./other",
    ]
    Path("tokenizer.model").touch()
    Path("corpus").mkdir()
    assert "evaluate: model" in refused({"steps": chain})
    assert main(["pipeline", "--config", write({"steps": chain[:3]}), "--dry-run"]) == 0
    # What a step below makes is not there yet.
    assert "data.path = data: does not exist" in refused({"steps": [chain[1], chain[0]]})
