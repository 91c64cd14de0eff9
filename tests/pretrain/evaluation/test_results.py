"""The file of scores: whose it is, what stands in it, and when a score is withheld."""

import json
from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.files.hub_folder import ModelFolder
from mobilellama.pretrain.evaluation.results import Results, withhold
from mobilellama.pretrain.evaluation.score_table import score_table
from mobilellama.pretrain.evaluation.scored_model import ScoredModel, open_scored_model
from mobilellama.pretrain.evaluation.task_result import TaskResult
from tests.pretrain.helpers.scores import result_of


def at(folder: Path) -> ScoredModel:
    """A folder's model, that is not loaded here."""
    found = ModelFolder(path=str(folder), name=str(folder))
    with open_scored_model(found) as model:
        return model


def test_a_file_of_something_else_is_not_overwritten(base: Path, tmp_path: Path) -> None:
    output = tmp_path / "notes.json"
    head = {"model": {"fingerprint": at(base).fingerprint}}
    head |= {"settings": {"add_bos": False, "dtype": "fp32"}}
    damaged = [
        {"piqa": 7},
        {"piqa": {name: value for name, value in result_of(0.7).items() if name != "settings"}},
        {"piqa": {**result_of(0.7), "metrics": {"acc": "0.7"}}},
        {"piqa": {**result_of(0.7), "answers": {"empty": 1}}},
    ]
    texts = [json.dumps(head | {"tasks": tasks}) for tasks in damaged]
    for text in ("mine", "[]", '{"model": 1}', *texts):
        output.write_text(text)
        with pytest.raises(
            ConfigError, match="exists, but is not a results file of 'pretrain eval"
        ):
            Results.open(str(output), at(base), add_bos=False, dtype="fp32")
        assert output.read_text() == text
    with pytest.raises(ConfigError, match=r"its folder does not exist\. Make it"):
        Results.open(str(tmp_path / "no/where.json"), at(base), add_bos=False, dtype="fp32")


def former(acc: float, *, truncated: int) -> TaskResult:
    """Return a result of the version that counted cut prompts alone."""
    result = result_of(acc)
    result.pop("answers")
    result["truncated_prompts"] = truncated
    return result


def test_results_of_the_version_that_counted_cut_prompts_alone_are_read(
    base: Path, tmp_path: Path
) -> None:
    old = former(0.7, truncated=50)
    assert withhold(old, show=False) == old
    table = score_table({"piqa": old}, "m", limit=None).splitlines()
    assert table[2].split()[5:] == ["-", "0.7000", "0.0500", "0.73", "0.75"]
    assert table[-1] == "piqa: 50 prompts were cut at their start to the model's length."
    path = tmp_path / "results.json"
    stored = {"add_bos": False, "dtype": "fp32"}
    content = {"model": {"fingerprint": at(base).fingerprint}, "settings": stored}
    path.write_text(json.dumps(content | {"tasks": {"piqa": old}}))
    before = path.read_bytes()
    results = Results.open(str(path), at(base), add_bos=False, dtype="fp32")
    assert results.tasks_of(["piqa"]) == {"piqa": old} and path.read_bytes() == before
