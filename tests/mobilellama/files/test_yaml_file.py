"""YAML that a user gives: read as PyYAML reads it, and hostile files refused with one line."""

import os
from pathlib import Path

import pytest
import yaml

from mobilellama.commandline.parser import parse_config
from mobilellama.config import ConfigError
from mobilellama.files.yaml_file import line_of, read_yaml
from mobilellama.pretrain.config import Config
from mobilellama.sft.data.template import read_template


def bomb(first: str, next_one: str) -> str:
    """Return 15 lines whose aliases stand for 10^14 values."""
    lines = [f"a0: &a0 {first}"]
    for i in range(1, 15):
        lines.append(f"a{i}: &a{i} {next_one.format(', '.join([f'*a{i - 1}'] * 10))}")
    return "\n".join(lines)


HOSTILE = {
    "nested lists": ("train: " + "[" * 100_000, "nested more than 50 levels"),
    "lists 60 deep": ("train: " + "[" * 60 + "]" * 60, "nested more than 50 levels"),
    "mappings": ("\n".join("  " * i + "a:" for i in range(400)), "nested more than 50 levels"),
    "JSON": ('{"train": ' * 5000, "nested more than 50 levels"),
    "aliases": (bomb("[x]", "[{}]"), "more than 1,000,000 values with its aliases"),
    "merged aliases": (bomb("{{k: x}}", "{{<<: [{}]}}"), "more than 1,000,000 values"),
    "an alias inside itself": ("train: &a [*a]", "line 1: an alias contains itself"),
    "a long integer": ("train:\n  max_steps: " + "9" * 5000, "line 2: it holds a number of 5,000"),
    "no date": ("train: 2026-99-99", "month must be in"),
    "an empty integer": ("train:\n  max_steps: !!int ''", "does not fit its tag"),
    "digits without a digit": ("a: !!int '_'", "does not fit its tag"),
    "an empty float": ("a: !!float ''", "does not fit its tag"),
    "no bool": ("a: !!bool maybe", "does not fit its tag"),
    "no time": ("a: !!timestamp soon", "does not fit its tag"),
    "another encoding": ("train: \udcff", "can't decode byte"),
    "a key twice": (
        "train:\n  max_steps: 1\ndata:\n  path: x\n'train':\n  max_steps: 2\n",
        "has the key 'train' twice, on line 1 and on line 5; remove one of them",
    ),
    "a key twice, below": (
        "train:\n  max_steps: 1\n  seq_len: 1\n  max_steps: 1\n",
        "has the key 'max_steps' twice, on line 2 and on line 4",
    ),
    "a key twice, in a list": ("- {a: 1}\n- {b: 1, b: 2}", "has the key 'b' twice, on line 2"),
    "a tag": ("a: !!python/object/apply:os.system ['x']", "could not determine a constructor"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_line_wherever_it_is_given(tmp_path: Path, name: str) -> None:
    text, message = HOSTILE[name]
    path = tmp_path / "given.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
    given = ["--config", str(path), "--data.path", "x", "--run.folder", "y"]
    with pytest.raises(ConfigError, match=message):
        parse_config(Config, given, prog="mobilellama pretrain run", about="")
    with pytest.raises(ConfigError, match=message):
        read_template(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (".inf", "train.max_steps = inf: expected an int"),
        ("1e400", "train.max_steps = inf: expected an int"),
        ("99999999999999999999", r"train.max_steps = 9+: must fit into 64 bits"),
        ("9" * 5000, "train.max_steps = .*exceeds the limit"),
        ("[" * 20_000, "max_steps"),
    ],
)
def test_a_hostile_number_on_the_command_line_is_one_short_message(
    value: str, message: str
) -> None:
    given = ["--train.max_steps", value, "--data.path", "x", "--run.folder", "y"]
    with pytest.raises(ConfigError, match=message) as caught:
        parse_config(Config, given, prog="mobilellama pretrain run", about="")
    assert len(str(caught.value)) < 4_000


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (r'run: {folder: "a\0b"}', "run.folder"),
        (r'{"data": {"path": "data\u0000"}}', "data.path"),
    ],
)
def test_a_text_that_no_path_can_have_is_refused_by_its_field(
    tmp_path: Path, text: str, field: str
) -> None:
    (tmp_path / "given.yaml").write_text(text)
    other = {"run.folder": "--data.path", "data.path": "--run.folder"}[field]
    given = [other, "x", "--config", str(tmp_path / "given.yaml")]
    with pytest.raises(ConfigError, match=f"^{field} = .*holds a character that no path") as caught:
        parse_config(Config, given, prog="mobilellama pretrain run", about="")
    str(caught.value).encode()  # it can be printed


def test_a_name_in_another_encoding_is_a_path(tmp_path: Path) -> None:
    given = ["--data.path", os.fsdecode(b"caf\xe9"), "--run.folder", "y"]
    config = parse_config(Config, given, prog="mobilellama pretrain run", about="")
    assert os.fsencode(config.data.path) == b"caf\xe9"


def test_an_ordinary_file_is_read_as_it_was(tmp_path: Path) -> None:
    text = "a: &x {b: 1, c: [1.5, null, true]}\nd: *x\ne:\n  <<: *x\n  f: 0x10\ng: 'é'\n"
    (tmp_path / "f").write_text(text, encoding="utf-8")
    assert read_yaml(tmp_path / "f") == yaml.safe_load(text)
    (tmp_path / "f").write_text("")
    assert read_yaml(tmp_path / "f") is None


def test_the_line_of_a_field_is_found_by_its_name_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("a: &x\n  b: 1\n  c:\n    d: 2\n# e\n\ne.f: {g: 3,\n  h.i: 4}\n[j]: 5\nk: *x\n")
    lines = {"a": 1, "a.b": 2, "a.c.d": 4, "e.f": 7, "e.f.g": 7, "e.f.h.i": 8, "k.b": 2}
    assert {name: line_of(path, name) for name in lines} == lines
    assert [line_of(path, name) for name in ("b", "a.b.c", "e", "j", "z")] == [None] * 5
    path.write_text("")
    assert line_of(path, "a") is None
