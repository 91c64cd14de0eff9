"""The file of a pipeline: its steps, and what is refused by name."""

from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import UserError
from mobilellama.launch.main import main
from mobilellama.launch.pipeline_file import Config, StepConfig, read_links
from tests.launch.helpers.pipelines import EXPORT, PRETRAIN, TOKENIZE, links, write


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_step_waits_for_the_one_above_or_for_those_it_names() -> None:
    other = EXPORT | {"name": "again", "after": ["pretrain", "tokenize"]}
    other |= {"args": EXPORT["args"] | {"output": "other"}}
    alone = TOKENIZE | {"name": "alone", "after": []}
    alone |= {"args": TOKENIZE["args"] | {"output": "more"}}
    found = links(TOKENIZE, PRETRAIN, EXPORT, other, alone)
    assert [(link.name, link.after) for link in found] == [
        ("tokenize", []),
        ("pretrain", ["tokenize"]),
        ("export", ["pretrain"]),
        ("again", ["pretrain", "tokenize"]),
        ("alone", []),
    ]


def test_slurms_fields_of_a_step_count_more_than_those_of_all_and_the_command_line_most() -> None:
    step: dict[str, Any] = PRETRAIN | {"slurm": {"nodes": 20, "env": {"A": "x"}}}
    config = Config(steps=[StepConfig(**step)], slurm={"nodes": 2, "account": "a"})
    slurm = read_links(config, ["--slurm.time=90"])[0].request.slurm
    assert (slurm.nodes, slurm.account, slurm.time, slurm.env) == (20, "a", "90", {"A": "x"})


def test_quoted_numbers_of_the_file_stay_texts(capsys: pytest.CaptureFixture[str]) -> None:
    step = EXPORT | {"slurm": {"time": "90", "job_name": "007"}}
    step |= {"args": EXPORT["args"] | {"license": "1e3"}}
    Path("run").mkdir()
    assert main(["pipeline", "--config", write({"steps": [step]}), "--dry-run"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --time=90\n" in script and "#SBATCH --job-name=007\n" in script
    assert "--license=1e3" in script


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [", "is not YAML"),
        ("- a", "must hold 'field: value' lines"),
        ("stpes: []", "is not a field. See 'mobilellama launch pipeline --help'; did you mean"),
        ("steps: {}", "must be a list of steps"),
        ("", "must hold 'field: value' lines"),
    ],
)
def test_a_file_of_another_shape_is_refused_by_name(text: str, message: str) -> None:
    Path("pipeline.yaml").write_text(text)
    with pytest.raises(UserError, match=r"pipeline\.yaml") as caught:
        main(["pipeline", "--config", "pipeline.yaml"])
    assert message in str(caught.value)


def test_a_second_file_is_refused() -> None:
    words = ["--config", "a.yaml", "--dry-run", "--config=b.yaml"]
    with pytest.raises(UserError, match=r"--config = b\.yaml: is a second file beside a\.yaml"):
        main(["pipeline", *words])
