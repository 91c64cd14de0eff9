"""What can be launched: every step is a command of a stage, and names the folder that it makes."""

import dataclasses
import hashlib
import importlib
import importlib.util
import typing
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.inputs import input_paths
from mobilellama.launch.steps import STEPS, find_step, folder_of, given, with_frozen_configs

MAKES_A_RUN = ("pretrain", "sft", "vlm")


def verb_module(command: tuple[str, str]) -> str:
    """The module that runs a stage's verb."""
    stage, verb = command
    return importlib.import_module(f"mobilellama.{stage}.main").VERBS[verb].module


def field_types(config: type[Any], above: str = "") -> dict[str, Any]:
    """Every field of a config and of its sections, dotted, with its type."""
    found: dict[str, Any] = {}
    types = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        name, kind = f"{above}{field.name}", types[field.name]
        found[name] = kind
        for section in (kind, *typing.get_args(kind)):
            if isinstance(section, type) and dataclasses.is_dataclass(section):
                found |= field_types(section, f"{name}.")
    return found


def required_fields(config: type[Any]) -> set[str]:
    missing = dataclasses.MISSING
    return {
        field.name
        for field in dataclasses.fields(config)
        if field.default is missing and field.default_factory is missing
    }


@pytest.mark.parametrize("name", STEPS)
def test_every_step_is_a_command_of_a_stage(name: str) -> None:
    step = STEPS[name]
    for command in (step.command, step.finish):
        if command:
            assert importlib.util.find_spec(verb_module(command)) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_every_step_has_the_fields_that_name_what_it_makes_and_reads(name: str) -> None:
    step = STEPS[name]
    config = importlib.import_module(verb_module(step.command)).Config
    assert field_types(config)[step.folder] in (str, str | None)
    for path in input_paths(*step.command):
        assert field_types(config)[path.field] in (str, str | None)
        assert path.unless is None or path.unless in field_types(config)
    if step.kind == "array":
        assert {"task_index", "task_count", "workers"} <= set(field_types(config))
    if step.finish:
        finish = importlib.import_module(verb_module(step.finish)).Config
        assert required_fields(finish) == {step.folder}


def test_steps_that_train_make_a_run_and_no_others() -> None:
    assert tuple(name for name, step in STEPS.items() if step.kind == "train") == MAKES_A_RUN
    assert {STEPS[name].folder for name in MAKES_A_RUN} == {"run.folder"}
    assert {step.folder for name, step in STEPS.items() if name not in MAKES_A_RUN} == {"output"}


def test_steps_that_use_gpus_are_those_that_train_and_those_that_ask_for_some() -> None:
    names = [name for name, step in STEPS.items() if step.uses_gpus]
    assert names == ["pretrain", "evaluate", "sft", "vlm", "vlm-evaluate"]


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ("--run.folder runs/a", "runs/a"),
        ("--run.folder=runs/a", "runs/a"),
        ("--run.folder=a=b", "a=b"),
        ("--run.folder /runs/a/", "/runs/a"),
        ("--run.folder a --train.seq_len 4 --run.folder b", "b"),
        ("--config demo --run.folder a", "a"),
        ("--config file.yaml", "of the file"),
        ("--config=file.yaml", "of the file"),
        ("--config file.yaml --run.folder a", "a"),
        ("--config demo --config file.yaml", "of the file"),
    ],
)
def test_the_folder_of_a_run_is_what_its_arguments_name(
    arguments: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.yaml").write_text("run:\n  folder: of the file\ntrain:\n  seq_len: 4\n")
    assert folder_of(STEPS["pretrain"], arguments.split()) == tmp_path / folder


def test_the_output_of_a_step_may_stand_at_the_top_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(f"output: {tmp_path}/data\nsources:\n  output: other\n")
    assert folder_of(STEPS["tokenize"], ["--config", str(file)]) == tmp_path / "data"


@pytest.mark.parametrize(
    ("step", "arguments"),
    [
        ("pretrain", ""),
        ("pretrain", "--run.folder"),
        ("pretrain", "--run.folder="),
        ("pretrain", "--run.folders a --folder b"),
        ("pretrain", "--config"),
        ("pretrain", "--config demo"),
        ("pretrain", "--config without.yaml"),
        ("pretrain", "--config section.yaml"),
        ("pretrain", "--config broken.yaml"),
        ("pretrain", "--config binary.yaml"),
        ("pretrain", "--config list.yaml"),
        ("export", "--run.folder a"),
    ],
)
def test_a_step_without_a_folder_is_refused(
    step: str, arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("without.yaml").write_text("run:\n  keep: 3\n")
    Path("section.yaml").write_text("run: a\n")
    Path("broken.yaml").write_text("run: [a\n")
    Path("binary.yaml").write_bytes(b"run: \xff\n")
    Path("list.yaml").write_text("- run\n")
    field = STEPS[step].folder
    with pytest.raises(ConfigError) as caught:
        folder_of(STEPS[step], arguments.split())
    assert str(caught.value) == f"--{field} = (not given): is required. Give --{field} FOLDER."


def test_values_of_a_file_keep_their_types(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("workers: 3\n")
    assert given(STEPS["tokenize"], ["--config", str(file)], "workers") == 3
    assert given(STEPS["tokenize"], ["--config", str(file), "--workers", "4"], "workers") == "4"
    assert given(STEPS["tokenize"], ["--config", str(file)], "other") is None


def test_a_step_that_does_not_exist_is_met_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        find_step("pretrian", field="steps[0].step")
    assert str(caught.value) == (
        f"steps[0].step = pretrian: must be one of {', '.join(STEPS)}. "
        "See 'mobilellama launch --help'; did you mean 'pretrain'?"
    )
    assert find_step("pretrain", field="steps[0].step") is STEPS["pretrain"]


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--config", "ONE", "--config", "TWO"], "two"),
        (["--config=TWO", "--config=ONE"], "one"),
        (["--run.folder", "three", "--config", "TWO"], "three"),
        (["--config", "TWO", "--run.folder", "three"], "three"),
        (["--config", "ONE", "--config", "OTHER"], "one"),
        (["--config", "ONE", "--config", "a_preset"], "one"),
    ],
)
def test_a_flag_counts_before_the_last_file_as_on_the_stages_command_line(
    tmp_path: Path, words: list[str], value: str
) -> None:
    (tmp_path / "ONE").write_text("run: {folder: one}\n")
    (tmp_path / "TWO").write_text("run: {folder: two}\n")
    (tmp_path / "OTHER").write_text("data: {path: x}\n")
    places = {name: str(tmp_path / name) for name in ("ONE", "TWO", "OTHER")}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    assert given(STEPS["pretrain"], words, "run.folder") == value


@pytest.mark.parametrize("name", ["a\nb", 'a"b', "a\x07", "50%x"])
def test_a_folder_that_no_script_can_hold_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="a job script cannot hold"):
        folder_of(STEPS["export"], ["--output", name])


def test_a_file_that_builds_on_others_names_the_folder_of_the_run_as_on_the_command_line(
    tmp_path: Path,
) -> None:
    (tmp_path / "site.yaml").write_text(f"run: {{folder: {tmp_path}/site}}\n")
    (tmp_path / "mine.yaml").write_text("builds_on: [demo, site.yaml]\ntrain: {max_steps: 3}\n")
    words = ["--config", str(tmp_path / "mine.yaml")]
    assert folder_of(STEPS["pretrain"], words) == tmp_path / "site"


def test_the_copies_of_a_file_that_builds_on_others_hold_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("# ours\nrun: {folder: site}\n")
    (tmp_path / "mine.yaml").write_text("builds_on: [demo, site.yaml]\ntrain: {max_steps: 3}\n")
    words = ["--config", "demo", f"--config={tmp_path}/mine.yaml", "--run.folder", "x"]
    presets = STEPS["pretrain"].presets
    frozen, copies = with_frozen_configs(words, tmp_path / "launch", presets)
    assert frozen[:2] + frozen[5:] == ["--config", "demo", "--run.folder", "x"]
    texts = [copies[Path(word.removeprefix("--config="))].decode() for word in frozen[2:5]]
    assert texts == [
        (presets / "demo.yaml").read_text(),
        "# ours\nrun: {folder: site}\n",
        "train: {max_steps: 3}\n",
    ]


def test_a_copy_of_a_file_that_builds_on_what_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("builds_on: demmo\n")
    words = ["--config", str(tmp_path / "mine.yaml")]
    with pytest.raises(ConfigError, match="builds_on = demmo: is not a preset"):
        with_frozen_configs(words, tmp_path, STEPS["pretrain"].presets)


@pytest.mark.parametrize(
    ("name", "words", "field", "value"),
    [
        ("export", ["runs/a", "--output", "b"], "checkpoint", "runs/a"),
        ("sft-merge", ["runs/a"], "checkpoint", "runs/a"),
        ("evaluate", ["model", "--tasks", "piqa"], "model", "model"),
        ("prepare", ["word"], "output", None),  # it takes no word
        ("vlm-evaluate", ["--benchmark", "gqa"], "tasks", "gqa"),
        ("pretrain", ["--launch.devices", "4"], "distributed.devices", "4"),
        ("pretrain", ["--schedule.warmup-share=0.1"], "schedule.warmup_ratio", "0.1"),
    ],
)
def test_words_without_a_flag_and_old_names_are_understood_as_the_stage_does(
    name: str, words: list[str], field: str, value: str | None
) -> None:
    assert given(STEPS[name], words, field) == value


def test_old_names_in_a_file_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("launch: {devices: 4}")
    assert given(STEPS["pretrain"], ["--config", str(file)], "distributed.devices") == 4


@pytest.mark.parametrize("form", ["two words", "one word"])
def test_a_config_file_is_named_in_the_form_in_which_it_was_given(
    form: str, tmp_path: Path
) -> None:
    """The signature is of the words: another form would begin a launch that is half done anew."""
    file = tmp_path / "mine.yaml"
    file.write_text("workers: 2\n")
    copy = tmp_path / f"config-{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}.yaml"
    words = ["--config", str(file)] if form == "two words" else [f"--config={file}"]
    frozen, copies = with_frozen_configs(
        [*words, "--output", "x"], tmp_path, STEPS["tokenize"].presets
    )
    given_so = ["--config", str(copy)] if form == "two words" else [f"--config={copy}"]
    assert frozen == [*given_so, "--output", "x"]
    assert copies == {copy: b"workers: 2\n"}


def test_a_config_without_a_value_is_left_to_the_stage(tmp_path: Path) -> None:
    words = ["--output", "x", "--config"]
    assert with_frozen_configs(words, tmp_path, tmp_path) == (words, {})
