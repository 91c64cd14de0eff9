"""The file of scores: whose it is, what stands in it, and when a score is withheld."""

import json
import shutil
from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.files.hub_folder import ModelFolder
from mobilellama.pretrain.evaluation.results import Results, fingerprint, withhold
from mobilellama.pretrain.evaluation.score_table import score_table
from mobilellama.pretrain.evaluation.task_result import TaskResult
from tests.pretrain.helpers.scores import result_of


def at(folder: Path) -> ModelFolder:
    """A model that is named by its path."""
    return ModelFolder(path=str(folder), name=str(folder))


def test_a_file_of_something_else_is_not_overwritten(base: Path, tmp_path: Path) -> None:
    output = tmp_path / "notes.json"
    head = {"model": {"fingerprint": fingerprint(at(base))}}
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


def test_the_fingerprint_knows_weights_config_and_tokenizer(base: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(base, tmp_path / "copied"))
    first = fingerprint(at(base))
    assert fingerprint(at(copied)) == first
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        content = (copied / name).read_bytes()
        (copied / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert fingerprint(at(copied)) != first
        (copied / name).write_bytes(content)
    name = "tester/tiny@c0ffee"  # as files of former versions have it
    assert fingerprint(ModelFolder(path=str(base), name=name)) == name


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
    content = {"model": {"fingerprint": fingerprint(at(base))}, "settings": stored}
    path.write_text(json.dumps(content | {"tasks": {"piqa": old}}))
    before = path.read_bytes()
    results = Results.open(str(path), at(base), add_bos=False, dtype="fp32")
    assert results.tasks_of(["piqa"]) == {"piqa": old} and path.read_bytes() == before
