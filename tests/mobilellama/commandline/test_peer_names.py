"""Names of other trainers are met with ours."""

import importlib

import pytest

from mobilellama.commandline.fields import fields_of
from mobilellama.commandline.parser import parse_config
from mobilellama.commandline.peer_names import OURS, our_name
from mobilellama.commandline.words import OWN
from mobilellama.config import ConfigError
from mobilellama.pretrain.config import Config


@pytest.mark.parametrize(
    ("flag", "ours"),
    [
        ("--lr", "--optimizer.learning_rate"),
        ("--batch_size", "--train.micro_batch_size"),
        ("--per-device-train-batch-size", "--train.micro_batch_size"),
        ("--data_path", "--data.path"),
        ("--seed", "--train.seed"),
        ("--training.seq_len", "--train.seq_len"),
        ("--output_dir", "--run.folder"),
        ("--dry-run", "--print_config"),
        ("--report-to", "--metrics.sinks"),
    ],
)
def test_a_name_of_another_trainer_is_met_with_ours(flag: str, ours: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(Config, [flag, "1"], prog="mobilellama pretrain run", about="")
    assert str(error.value) == (
        f"{flag} = 1: is not a field. See 'mobilellama pretrain run --help all'; it is {ours} here."
    )


@pytest.mark.parametrize("flag", ["--resume_from_checkpoint", "--auto-resume", "--load"])
def test_a_flag_that_is_not_needed_here_is_met_with_what_to_do(flag: str) -> None:
    with pytest.raises(ConfigError, match="; the same command goes on with what is there"):
        parse_config(Config, [flag, "1"], prog="mobilellama pretrain run", about="")


def test_every_name_of_ours_is_a_field_of_a_verb() -> None:
    known = set(OWN)
    for stage in ("tokenize", "shards", "pretrain", "sft", "vlm"):
        for verb in importlib.import_module(f"mobilellama.{stage}.main").VERBS.values():
            known |= set(fields_of(importlib.import_module(verb.module).Config).by_name)
    assert [name for names in OURS.values() for name in names if name not in known] == []


def test_a_name_that_this_verb_has_not_is_no_hint() -> None:
    assert our_name("model_name_or_path", {"init"}) == "init"
    assert our_name("model_name_or_path", {"model"}) == "model"
    assert our_name("model_name_or_path", {"dataset"}) is None
    assert our_name("seq_length", {"seq_len"}) == "seq_len"
