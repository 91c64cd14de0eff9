"""Old names: each means a field of today, is warned of once, and stands in files for ever."""

import importlib
from pathlib import Path

import pytest
import yaml

from mobilellama.commandline.fields import fields_of
from mobilellama.commandline.old_names import (
    EVERYWHERE,
    OF_VERB,
    as_current,
    as_stored,
    current_name,
)
from mobilellama.commandline.parser import parse_config
from mobilellama.config import ConfigError
from mobilellama.sft.config import Config

REQUIRED = ["--init", "m", "--data.path", "d", "--run.folder", "r"]


def read(*argv: str) -> Config:
    return parse_config(Config, [*REQUIRED, *argv], prog="mobilellama sft run", about="")


def test_an_old_flag_means_the_new_one_with_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    config = read("--launch.devices", "2", "--schedule.warmup-share=0.5")
    assert config.distributed.devices == 2 and config.schedule.warmup_ratio == 0.5
    assert capsys.readouterr().err == (
        "mobilellama: warning: old names, which still work: --launch.devices is now "
        "--distributed.devices; --schedule.warmup-share is now --schedule.warmup_ratio\n"
    )


def test_the_other_ranks_of_a_run_do_not_warn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert read("--launch.devices", "2").distributed.devices == 2
    assert capsys.readouterr().err == ""


def test_an_old_name_in_a_file_means_the_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("launch: {devices: 2}\nschedule: {min_lr_share: 0.5}\nmodel: {d_model: 8}\n")
    config = read("--config", str(file), "--distributed.devices", "3")
    assert config.distributed.devices == 3 and config.schedule.min_lr_ratio == 0.5
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"launch.devices (in {file}) is now distributed.devices; " in said


def test_a_file_that_gives_a_field_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text("launch: {devices: 2}\ndistributed: {devices: 3}\n")
    with pytest.raises(ConfigError, match=r"gives distributed.devices, which the file gives"):
        read("--config", str(file))


def test_the_names_of_today_are_not_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new.yaml"
    file.write_text("distributed: {devices: 2}\nlora: {rank: 4, targets: 'q_proj,v_proj'}\n")
    assert read("--config", str(file)).lora.targets == ["q_proj", "v_proj"]
    assert capsys.readouterr().err == ""


def test_a_file_with_old_names_keeps_its_other_values_as_they_are(tmp_path: Path) -> None:
    """It is written anew for the parser: a text of digits stays a text, 1e-6 a number."""
    file = tmp_path / "old.yaml"
    file.write_text(
        "launch: {devices: 2}\ninit: '0123'\noptimizer: {eps: 1e-6}\nlora: {rank: null}\n"
    )
    argv = ["--config", str(file), "--data.path", "d", "--run.folder", "r"]
    config = parse_config(Config, argv, prog="mobilellama sft run", about="")
    assert (config.init, config.optimizer.eps, config.lora.rank) == ("0123", 1e-6, None)


def test_stored_configs_keep_the_old_names() -> None:
    config = {"launch": {"devices": 2}, "schedule": {"warmup_share": 0.1, "b": 2}, "a": 1}
    current = {
        "distributed": {"devices": 2},
        "schedule": {"warmup_ratio": 0.1, "b": 2},
        "a": 1,
    }
    assert as_current(config) == current and as_current(current) == current
    assert as_stored(current) == config
    assert list(as_stored(current)) == list(config)


def test_every_old_name_means_a_field_of_today_and_is_none_itself() -> None:
    for verb, table in OF_VERB.items():
        stage, name = verb.split()
        module = importlib.import_module(f"mobilellama.{stage}.main").VERBS[name].module
        known = fields_of(importlib.import_module(module).Config)
        names = {*known.by_name, *known.sections}
        for old, new in table.items():
            assert new in names and old not in names, (verb, old)
    for stage in ("pretrain", "sft", "vlm"):
        known = fields_of(importlib.import_module(f"mobilellama.{stage}.config").Config)
        names = {*known.by_name, *known.sections}
        assert set(EVERYWHERE.values()) <= names and not set(EVERYWHERE) & names
        assert current_name("launch.nodes", f"{stage} run") == "distributed.nodes"


def test_a_run_that_is_copied_from_an_old_config_has_no_old_names(tmp_path: Path) -> None:
    made = Path(__file__).parents[2] / "fixtures" / "made_by_22bff75" / "chat_run" / "config.yaml"
    assert "launch" in yaml.safe_load(made.read_text())
    config = parse_config(Config, ["--config", str(made)], prog="mobilellama sft run", about="")
    assert config.schedule.warmup_ratio == 0.04


def test_keys_of_other_projects_configs_keep_their_dots() -> None:
    config = {"model": {"language": {"a.b": 1, "c.b": {"d.e": 2}}}}
    assert as_current(config) == config == as_stored(config)
