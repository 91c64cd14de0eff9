"""What each preset sets, with all that it builds on, compared with a copy that only a person edits.

A change of a base reaches every preset above it. Where a recipe is meant to change, change
``frozen_presets.json`` too: the difference of that file shows which presets it reaches.
"""

import importlib
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from mobilellama.commandline.parser import parse_config
from mobilellama.files.presets import BASE, Layer, preset_names, read_layers

FROZEN: dict[str, dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "frozen_presets.json").read_text()
)
REQUIRED = {
    "pretrain": ["--data.path", "D", "--run.folder", "R"],
    "sft": ["--init", "I", "--data.path", "D", "--run.folder", "R"],
    "vlm": ["--init", "I", "--data.path", "D", "--data.images", "P", "--run.folder", "R"],
}
EVERY = [(stage, name) for stage in FROZEN for name in FROZEN[stage]]


def presets_of(stage: str) -> Path:
    return importlib.import_module(f"mobilellama.{stage}.main").PRESETS


def sections_in(layer: Layer) -> dict[str, dict[str, Any]]:
    """What one file sets itself, section by section."""
    found: dict[str, dict[str, Any]] = {}
    for section, fields in layer.values.items():
        assert isinstance(section, str)
        assert isinstance(fields, dict)
        found[section] = fields
    return found


def sections_of(stage: str, name: str) -> dict[str, dict[str, Any]]:
    """What a preset sets, section by section."""
    merged: dict[str, dict[str, Any]] = {}
    for layer in read_layers(presets_of(stage) / f"{name}.yaml", presets_of(stage)):
        for section, fields in sections_in(layer).items():
            merged.setdefault(section, {}).update(fields)
    return merged


@pytest.mark.parametrize("stage", FROZEN)
def test_every_preset_is_frozen(stage: str) -> None:
    assert preset_names(presets_of(stage)) == sorted(FROZEN[stage])


@pytest.mark.parametrize(("stage", "name"), EVERY)
def test_a_preset_sets_what_is_frozen_and_nothing_else(stage: str, name: str) -> None:
    assert sections_of(stage, name) == FROZEN[stage][name]


@pytest.mark.parametrize(("stage", "name"), EVERY)
def test_the_command_builds_what_is_frozen(stage: str, name: str) -> None:
    config_class = importlib.import_module(f"mobilellama.{stage}.config").Config
    argv = ["--config", name, *REQUIRED[stage]]
    config = parse_config(config_class, argv, prog="run", about="", presets=presets_of(stage))
    built = {
        section: {field: getattr(getattr(config, section), field) for field in fields}
        for section, fields in FROZEN[stage][name].items()
    }
    assert built == FROZEN[stage][name]


@pytest.mark.parametrize("stage", FROZEN)
def test_no_preset_says_what_its_bases_say(stage: str) -> None:
    for name in FROZEN[stage]:
        *bases, own = read_layers(presets_of(stage) / f"{name}.yaml", presets_of(stage))
        below = {
            (section, field): value
            for base in bases
            for section, fields in sections_in(base).items()
            for field, value in fields.items()
        }
        said = {
            (s, field): v for s, fields in sections_in(own).items() for field, v in fields.items()
        }
        twice = [
            f"{s}.{field}" for (s, field), v in said.items() if below.get((s, field), ...) == v
        ]
        assert not twice, f"{name} repeats {', '.join(twice)}"


@pytest.mark.parametrize("stage", FROZEN)
def test_no_two_files_say_the_same_of_a_section(stage: str) -> None:
    """Two equal fields may be chance; three are one passage, which wants a base of its own."""
    files = {path: yaml.safe_load(path.read_text()) for path in presets_of(stage).rglob("*.yaml")}
    for (first, values), (second, others) in combinations(sorted(files.items()), 2):
        for section in values.keys() & others.keys() - {BASE}:
            same = values[section].items() & others[section].items()
            assert len(same) < 3, f"{section} of {first} and {second}: {sorted(same)}"


@pytest.mark.parametrize("stage", FROZEN)
def test_every_base_is_used(stage: str) -> None:
    used = {
        layer.path.name
        for name in FROZEN[stage]
        for layer in read_layers(presets_of(stage) / f"{name}.yaml", presets_of(stage))
    }
    for base in (presets_of(stage) / "bases").glob("*.yaml"):
        assert base.name in used
        assert yaml.safe_load(base.read_text())
