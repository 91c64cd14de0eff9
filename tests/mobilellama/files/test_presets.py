"""Config files that build on others."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from mobilellama.commandline.parser import parse_config
from mobilellama.config import ConfigError
from mobilellama.files.presets import BASE, read_layers


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A section."""

    size: int = 1
    """A number."""
    rate: float = 0.5
    """Another."""
    name: str = "default"
    """A text."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A config."""

    inner: Inner = field(default_factory=Inner)
    """The section."""
    words: list[str] = field(default_factory=list)
    """A list."""


@pytest.fixture
def presets(tmp_path: Path) -> Path:
    folder = tmp_path / "presets"
    (folder / "bases").mkdir(parents=True)
    (folder / "bases/common.yaml").write_text("inner: {size: 2, rate: 2e-3, name: common}\n")
    (folder / "small.yaml").write_text("builds_on: bases/common\ninner:\n  name: small\n")
    (folder / "large.yaml").write_text("builds_on: small\ninner:\n  size: 9\n")
    return folder


@pytest.fixture
def parse(presets: Path, tmp_path: Path) -> Callable[..., Outer]:
    """Parse the arguments of a command that has the presets; write FILE=TEXT beside them first."""

    def run(*argv: str, **files: str) -> Outer:
        for name, text in files.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        words = [word.replace("HERE", str(tmp_path)) for word in argv]
        return parse_config(Outer, words, prog="test", about="", presets=presets)

    return run


@pytest.fixture
def refused(parse: Callable[..., Outer], tmp_path: Path) -> Callable[..., str]:
    """The message for a file of some text, which is 'HERE/mine.yaml'."""

    def run(text: str, **files: str) -> str:
        with pytest.raises(ConfigError) as caught:
            parse("--config", "HERE/mine.yaml", mine=text, **files)
        return str(caught.value).replace(str(tmp_path), "HERE")

    return run


def test_a_file_overrules_its_bases_field_by_field(parse: Callable[..., Outer]) -> None:
    assert parse("--config", "small").inner == Inner(size=2, rate=2e-3, name="small")
    assert parse("--config=large").inner == Inner(size=9, rate=2e-3, name="small")
    mine = "builds_on: large\ninner:\n  rate: 1e-4\n"
    assert parse("--config", "HERE/mine.yaml", mine=mine).inner == Inner(
        size=9, rate=1e-4, name="small"
    )


def test_later_configs_and_then_fields_overrule_a_file_and_its_bases(
    parse: Callable[..., Outer],
) -> None:
    config = parse(
        "--config", "large", "--inner.rate", "3", "--config", "HERE/mine.yaml", "--inner.size=7",
        mine="inner: {name: mine, size: 8}\n",
    )  # fmt: skip
    assert config.inner == Inner(size=7, rate=3.0, name="mine")
    assert parse("--config", "large", "--config", "bases/common").inner == Inner(
        size=2, rate=2e-3, name="common"
    )


def test_of_several_bases_the_last_wins_and_one_that_they_share_lies_below_both(
    parse: Callable[..., Outer],
) -> None:
    files = {
        "one": "builds_on: small\ninner: {name: one, size: 3}\n",
        "two": "builds_on: small\ninner: {size: 4}\n",
        "mine": "builds_on: [one.yaml, two.yaml]\n",
    }
    assert parse("--config", "HERE/mine.yaml", **files).inner == Inner(
        size=4, rate=2e-3, name="one"
    )


def test_a_list_is_overruled_as_a_whole(parse: Callable[..., Outer]) -> None:
    files = {"one": "words: [a, b]\n", "mine": "builds_on: one.yaml\nwords: [c]\n"}
    assert parse("--config", "HERE/mine.yaml", **files).words == ["c"]


def test_a_base_is_found_beside_the_file_that_names_it(
    parse: Callable[..., Outer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    files = {"one": "inner: {size: 5}\n", "mine": "builds_on: ./one.yaml\n"}
    assert parse("--config", "../mine.yaml", **files).inner.size == 5


@pytest.mark.parametrize(
    "text",
    [
        "builds_on: small\ninner:\n  name: '1e-3'\n  rate: 1e-3\n",
        "{builds_on: small, inner: {name: '1e-3', rate: 1e-3}}\n",
        "inner: &a\n  name: '1e-3'\n  rate: 1e-3\nbuilds_on: small  # a comment\n",
    ],
)
def test_values_are_read_as_in_a_file_without_a_base(
    parse: Callable[..., Outer], text: str
) -> None:
    config = parse("--config", "HERE/mine.yaml", mine=text)
    assert config.inner == Inner(size=2, rate=1e-3, name="1e-3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "builds_on: smal\n",
            "builds_on = smal: is not a preset (large, small) (in HERE/mine.yaml). Give the name "
            "of a preset, or of a file that ends in .yaml; did you mean 'small'?",
        ),
        (
            "builds_on: other.yaml\n",
            "builds_on = other.yaml: is not a file (in HERE/mine.yaml). "
            "Give a path relative to HERE, or the name of a preset.",
        ),
        (
            "builds_on: mine.yaml\n",
            "builds_on = mine.yaml: builds on itself: mine.yaml -> mine.yaml (in HERE/mine.yaml). "
            "Remove one of these bases.",
        ),
        (
            "builds_on: two.yaml\n",
            "builds_on = mine.yaml: builds on itself: mine.yaml -> two.yaml -> mine.yaml "
            "(in HERE/two.yaml). Remove one of these bases.",
        ),
        *(
            (
                f"builds_on: {value}\n",
                f"builds_on = {shown}: must be the name of a preset or of a file, or a list of "
                "such names (in HERE/mine.yaml). Write e.g. 'builds_on: mine.yaml'.",
            )
            for value, shown in (
                ("3", "3"), ("", "null"), ("''", ""), ("{a: b}", "{'a': 'b'}"),
                ("[small, 1]", "['small', 1]"),
            )
        ),
        (
            "inner: {base: small}\n",
            "inner.base = small: is not a field (in HERE/mine.yaml, line 1). "
            "See 'test --help all'; did you mean 'inner.size'?",
        ),
        (
            "builds_on: broken.yaml\n",
            "inner.sise = 3: is not a field (in HERE/broken.yaml, line 1). "
            "See 'test --help all'; did you mean 'inner.size'?",
        ),
        ("builds_on: list.yaml\n", "--config = HERE/list.yaml: must hold 'field: value' lines. "
            "Fix the file."),
        ("builds_on: small\ninner: {size: abc}\n", "inner.size = abc: expected an int "
            "(in HERE/mine.yaml, line 2). See 'test --help'."),
    ],
)  # fmt: skip
def test_a_base_with_a_mistake_is_named_with_its_file(
    refused: Callable[..., str], text: str, message: str
) -> None:
    others = {"two": "builds_on: mine.yaml\n", "broken": "inner: {sise: 3}\n", "list": "- 1\n"}
    assert refused(text, **others) == message


def test_without_presets_a_base_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("builds_on: small\n")
    with pytest.raises(ConfigError, match="is not a file, and this command has no presets"):
        read_layers(tmp_path / "mine.yaml", None)


def test_what_is_printed_is_the_merged_whole(
    parse: Callable[..., Outer], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse("--config", "large", "--words", "a", "--print_config")
    assert yaml.safe_load(capsys.readouterr().out) == {
        "inner": {"size": 9, "rate": 2e-3, "name": "small"},
        "words": ["a"],
    }


def test_no_verb_has_a_field_of_that_name() -> None:
    """A file that sets such a field would be taken for one that builds on another."""
    for stage in ("tokenize", "shards", "pretrain", "sft", "vlm", "launch"):
        for verb in importlib.import_module(f"mobilellama.{stage}.main").VERBS.values():
            config = importlib.import_module(verb.module).Config
            assert BASE not in config.__dataclass_fields__, verb.module
