"""Replay shows the text of the very samples that a step was trained on."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from mobilellama.commandline.parser import parse_config
from mobilellama.config import ConfigError
from mobilellama.files.atomic import read_json
from mobilellama.pretrain.config import Config
from mobilellama.pretrain.data import MixedBatches, WindowInputs
from mobilellama.pretrain.main import main
from mobilellama.pretrain.monitoring.replay import last_step
from mobilellama.run_folder import RunFolder
from mobilellama.shards.order import open_order
from mobilellama.shards.reader import TokenDataset
from tests.helpers.ranks import run_ranks
from tests.helpers.sealed import edit_sealed
from tests.pretrain.helpers.tiny import train_tiny


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps of eight samples."""
    path = tmp_path_factory.mktemp("replayed") / "run"
    run_ranks(train_tiny, 1, small_dataset, path, {"train.max_steps": 2})
    return path


def test_the_second_step_s_samples_are_shown_in_order(
    run: Path, small_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", "--run", str(run), "--step", "2", "--first", "1", "--count", "3"]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("step 2, position ")] == [
        line for line in out.splitlines() if line.startswith("step 2")
    ]
    assert all(f"step 2, position {position}, " in out for position in (9, 10, 11))
    assert "position 8," not in out and "position 12," not in out

    dataset = TokenDataset(small_dataset)
    mixture, windows = open_order(dataset, seq_len=32, mixture=None, seed=1337)
    batches = MixedBatches(
        mixture, windows, WindowInputs(seq_len=32, eos_id=None), global_batch_size=8,
        micro_batch_size=8, rank=0, world_size=1,
    )  # fmt: skip
    ids = batches.at(8).micro_batches[0].inputs["input_ids"][1].tolist()
    first_document = ids[: ids.index(2)] if 2 in ids else ids
    text = dataset.tokenizer.decode(first_document).strip()
    assert text.splitlines()[-1].strip() in out


def test_a_dataset_that_has_moved_is_found_where_one_says_and_checked(
    run: Path, small_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    attempt = moved / "attempts/0001.json"
    config = read_json(attempt)["config"]
    edit_sealed(attempt, config=config | {"data": config["data"] | {"path": "/gone"}})
    arguments = ["replay", "--run", str(moved), "--step", "1", "--count", "1"]
    with pytest.raises(ConfigError, match=r"dataset = /gone: is not a folder\. Say with --dataset"):
        main(arguments)
    assert main([*arguments, "--dataset", str(small_dataset)]) == 0
    there = capsys.readouterr().out
    assert main(["replay", "--run", str(run), "--step", "1", "--count", "1"]) == 0
    assert capsys.readouterr().out == there

    other = tmp_path / "dataset"
    shutil.copytree(small_dataset, other)
    description = other / "dataset.json"
    edit_sealed(description, fingerprint="0" * 64)
    with pytest.raises(ConfigError, match="has the fingerprint 000000000000, but the run was"):
        main([*arguments, "--dataset", str(other)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "0"], "step = 0: must be at least 1"),
        (["--step", "3"], "step = 3: is after the run's last step, 2"),
        (["--step", "1", "--first", "8"], "first = 8: must be below train.global_batch_size = 8"),
    ],
)
def test_a_step_or_sample_that_does_not_exist_is_refused(
    run: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        main(["replay", "--run", str(run), *arguments])


def test_all_steps_of_a_run_are_shown_though_its_newest_attempt_was_to_end_earlier(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shorter = tmp_path / "run"
    shutil.copytree(run, shorter)
    attempt = shorter / "attempts/0001.json"
    config = read_json(attempt)["config"]
    edit_sealed(attempt, config=config | {"train": config["train"] | {"max_steps": 1}})
    shown = []
    for folder in (run, shorter):
        assert main(["replay", "--run", str(folder), "--step", "2"]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    with pytest.raises(ConfigError, match="is after the run's last step, 2"):
        main(["replay", "--run", str(shorter), "--step", "3"])


def test_a_run_by_epochs_ends_at_the_step_of_its_verdict(run: Path, tmp_path: Path) -> None:
    by_epochs = tmp_path / "run"
    shutil.copytree(run, by_epochs)
    assert last_step(RunFolder(by_epochs), None) == 2
    edit_sealed(by_epochs / "verdict.json", kind="stopped")
    assert last_step(RunFolder(by_epochs), None) is None


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no attempt in attempts/"):
        main(["replay", "--run", str(tmp_path), "--step", "1"])


def test_a_run_s_config_yaml_is_the_config_that_ran(run: Path) -> None:
    config = parse_config(Config, ["--config", str(run / "config.yaml")], prog="test", about="")
    assert asdict(config) == yaml.safe_load((run / "config.yaml").read_text())
    assert (config.train.global_batch_size, config.model.d_model) == (8, 64)
