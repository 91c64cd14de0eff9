"""Files of fields: a mistake is named with its file; later files and flags overrule former ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mobilellama.files.presets import preset_names
from mobilellama.pretrain.main import PRESETS
from tests.helpers.command_line import ALL, GIVEN, HELP, RUN


def test_a_config_that_is_neither_file_nor_preset_is_met_with_the_nearest(
    refused: Callable[..., str],
) -> None:
    names = ", ".join(preset_names(PRESETS))
    for arguments in (("--config", "mobilelama_1_4b"), ("--config=mobilelama_1_4b",)):
        assert refused(*RUN, *arguments, *GIVEN) == (
            f"--config = mobilelama_1_4b: is neither a file nor a preset ({names}). "
            "Give a YAML file or a preset's name; did you mean 'mobilellama_1_4b'?"
        )
    assert refused("shards", "info", "--config", "none.yaml", "x") == (
        "--config = none.yaml: is not a file. Give the path of a YAML file."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train:\n  seqlen: 3\n",
            f"train.seqlen = 3: is not a field (in FILE, line 2). "
            f"{ALL}; did you mean 'train.seq_len'?",
        ),
        (
            "trian:\n  seq_len: 3\n",
            f"trian = {{'seq_len': 3}}: is not a field (in FILE, line 1). "
            f"{ALL}; did you mean 'train'?",
        ),
        (
            "train: 3\n",
            "train = 3: is a section, and must hold 'field: value' lines (in FILE, line 1). "
            f"{ALL}.",
        ),
        (
            "train:\n",
            "train = null: is a section, and must hold 'field: value' lines (in FILE, line 1). "
            f"{ALL}.",
        ),
        (
            "optimizer:\n  lr: 3e-4\n",
            "optimizer.lr = 3e-4: is not a field (in FILE, line 2). "
            f"{ALL}; it is optimizer.learning_rate here.",
        ),
        (
            "train:\n  seq_len: abc\n",
            f"train.seq_len = abc: expected an int (in FILE, line 2). {HELP}.",
        ),
        (
            "run:\n\n  max_hours: soon  # or later\n",
            f"run.max_hours = soon: expected float or null (in FILE, line 3). {HELP}.",
        ),
        (
            "engine: {kind: fsdp}\n",
            f"engine.kind = fsdp: expected one of deepspeed, ddp (in FILE, line 1). {HELP}.",
        ),
        (
            "train.max-steps: [1]\n",
            f"train.max_steps = [1]: expected an int (in FILE, line 1). {HELP}.",
        ),
        (
            "train:\n  seq_len: 0\n",
            "train.seq_len = 0: must be at least 1 (in FILE, line 2). Give 1 or more.",
        ),
        (
            "train:\n  max_steps: 99999999999999999999\n",
            "train.max_steps = 99999999999999999999: must fit into 64 bits (in FILE, line 2). ",
        ),
        ("- 1\n", "--config = FILE: must hold 'field: value' lines. Fix the file."),
        ("", "--config = FILE: must hold 'field: value' lines. Fix the file."),
        ("train: [1\n", "--config = FILE: is not YAML (while parsing a flow sequence"),
        ("a: \udcff\n", "--config = FILE: is not YAML ('utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_config_file_with_a_mistake_is_named_with_it(
    refused: Callable[..., str], tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text, errors="surrogateescape")
    assert refused(*RUN, "--config", file, *GIVEN).startswith(message.replace("FILE", str(file)))


def test_a_value_is_blamed_on_what_gave_it(refused: Callable[..., str], tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("train:\n  seq_len: 0\n  max_steps: abc\n")
    two.write_text("builds_on: one.yaml\n\ntrain: {seq_len: -1, max_steps: 1}\n")
    base = (*RUN, *GIVEN, "--config", two)
    assert f"train.max_steps = abc: expected an int (in {one}, line 3). " in refused(*base)
    flag = ("--train.max_steps", "q")
    assert f"train.max_steps = abc: expected an int (in {one}, line 3). " in refused(*base, *flag)
    one.write_text("train:\n  seq_len: 0\n")
    rule = "must be at least 1"
    assert f"train.seq_len = -1: {rule} (in {two}, line 3). " in refused(*base)
    assert f"train.seq_len = 0: {rule} (in {one}, line 2). " in refused(*base, "--config", one)
    assert f"train.seq_len = -2: {rule}. " in refused(*base, "--train.seq_len", "-2")
    assert "train.max_steps = q: expected an int. " in refused(*base, *flag)


def test_the_command_line_overrules_files_and_later_files_overrule_former_ones(
    printed: Callable[..., str], tmp_path: Path
) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("train:\n  seq_len: 64\n  max_steps: 11\noptimizer:\n  eps: 1e-6\n")
    two.write_text("train:\n  max_steps: 22\n  micro_batch_size: 2\n")
    files = ("--config", "demo", "--config", one, f"--config={two}")
    config = yaml.safe_load(printed(*files, *GIVEN, "--train.micro_batch_size", "1"))
    train = config["train"]
    assert (train["micro_batch_size"], train["max_steps"], train["seq_len"]) == (1, 22, 64)
    assert float(config["optimizer"]["eps"]) == 1e-6
    assert config["model"]["d_model"] == 256  # of the preset


def test_a_field_of_the_command_line_overrules_a_file_that_stands_after_it(
    printed: Callable[..., str], tmp_path: Path
) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("train: {max_steps: 11, seq_len: 64}\n")
    two.write_text("builds_on: one.yaml\ntrain: {max_steps: 22}\n")
    for files in (("--config", two), ("--config", one, f"--config={two}")):
        train = yaml.safe_load(printed("--train.max-steps", "7", *files, *GIVEN))["train"]
        assert (train["max_steps"], train["seq_len"]) == (7, 64)


def test_what_print_config_prints_is_a_config_file(
    printed: Callable[..., str], tmp_path: Path
) -> None:
    saved = tmp_path / "saved.yaml"
    saved.write_text(printed("--config", "demo", *GIVEN, "--train.max_steps", "7"))
    assert yaml.safe_load(saved.read_text())["train"]["max_steps"] == 7
    assert printed("--config", saved) == saved.read_text()
