"""What --help prints: the first fields, a section's, or all; as the command line takes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from mobilellama.commandline.help_text import type_text, value_text
from mobilellama.commandline.parser import parse_config
from mobilellama.config import ConfigError
from mobilellama.pretrain.config import Config
from mobilellama.pretrain.hf.export_config import Config as ExportConfig
from mobilellama.sft.main import main as sft_main


@dataclass(frozen=True, kw_only=True)
class Rates:
    """A section."""

    peak: float = 3e-4
    """Peak of the rate; None is ``none``."""
    kind: Literal["flat", "steep"] = "flat"
    """How it falls."""


@dataclass(frozen=True, kw_only=True)
class SteepRates(Rates):
    """A section that changes a default."""

    kind: Literal["flat", "steep"] = "steep"
    """How it falls, here steeply."""
    floor: int | None = None


@dataclass(frozen=True, kw_only=True)
class Few:
    """All are shown."""

    keep: bool = True
    """Whether
    to keep it."""
    model: str
    """A folder."""
    rates: Rates = field(default_factory=lambda: SteepRates(peak=1.0))
    """The rates."""


@dataclass(frozen=True, kw_only=True)
class Many:
    """Only the first are shown."""

    a: int = 1
    """First of many."""
    b: int = 2
    c: int = 3
    d: int = 4
    e: int = 5
    f: int = 6
    g: int = 7
    h: int = 8
    i: int = 9
    j: int = 10
    output: str
    """Where to."""
    rates: SteepRates = field(default_factory=SteepRates)
    """The rates."""


def shown(capsys: pytest.CaptureFixture[str], config: type, *argv: str, **more: Any) -> str:
    with pytest.raises(SystemExit) as left:
        parse_config(config, argv, prog="mobilellama x", about="Do it.", **more)
    assert left.value.code == 0
    return capsys.readouterr().out


def test_few_fields_are_all_shown_with_types_and_defaults_as_the_command_line_takes_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert shown(capsys, Few, "--help", thing="model") == (
        """usage: mobilellama x MODEL [--config FILE] [--section.field VALUE ...]

Do it.

  MODEL, or --model TEXT (required)
      A folder.
  --keep true|false (default: true)
      Whether to keep it.
  --rates.peak NUMBER (default: 1.0)
      Peak of the rate; null is 'none'.
  --rates.kind flat|steep (default: steep)
      How it falls.
  --config FILE
      YAML file of fields. Later files override earlier ones, and fields
      override files.
  --print_config
      Print the resulting config, and do nothing else.
"""
    )


def test_of_many_fields_the_required_and_the_first_are_shown_and_the_end_tells_of_the_rest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = shown(capsys, Many, "-h", first=("rates.kind", "c"))
    entries = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
    assert entries == ["--output", "--rates.kind", "--c", "--config", "--print_config"]
    assert text.endswith(
        "\nThese are 3 of 14 fields: 'mobilellama x --help all' lists all, and '--help\n"
        "SECTION' those of rates.\n"
    )


@pytest.mark.parametrize("asked", [("--help", "all"), ("--help=all",), ("--c", "3", "-h", "all")])
def test_all_shows_every_field_those_that_are_required_first(
    capsys: pytest.CaptureFixture[str], asked: tuple[str, ...]
) -> None:
    text = shown(capsys, Many, *asked, first=("c",))
    entries = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
    assert entries == [
        "--output", *(f"--{letter}" for letter in "abcdefghij"),
        "--rates.peak", "--rates.kind", "--rates.floor", "--config", "--print_config",
    ]  # fmt: skip


def test_a_section_or_a_field_is_shown_alone_with_the_docstring_of_the_class_that_has_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert shown(capsys, Many, "--help", "rates") == (
        "  --rates.peak NUMBER (default: 0.0003)\n      Peak of the rate; null is 'none'.\n"
        "  --rates.kind flat|steep (default: steep)\n      How it falls, here steeply.\n"
        "  --rates.floor INT|null (default: null)\n"
    )
    assert shown(capsys, Many, "--help=a") == "  --a INT (default: 1)\n      First of many.\n"


def test_help_writes_the_flag_dry_run_as_documents_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        sft_main(["prepare", "--help", "dry_run"])
    assert capsys.readouterr().out.startswith("  --dry-run true|false (default: false)\n")


def test_help_is_asked_for_by_the_old_name_and_with_hyphens_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts: dict[str, str] = {}
    for word in ("distributed", "launch", "schedule.min_lr_ratio", "schedule.min-lr-share"):
        with pytest.raises(SystemExit):
            parse_config(Config, ["--help", word], prog="mobilellama pretrain run", about="")
        texts[word] = capsys.readouterr().out
    assert texts["launch"] == texts["distributed"]
    assert texts["launch"].startswith("  --distributed.")
    assert texts["schedule.min-lr-share"] == texts["schedule.min_lr_ratio"]
    assert texts["schedule.min-lr-share"].startswith("  --schedule.min_lr_ratio ")


def test_help_after_a_thing_shows_the_first_fields(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for words in (["--help"], ["--help", "out/run"], ["out/run", "--help"]):
        with pytest.raises(SystemExit):
            parse_config(ExportConfig, words, prog="x", about="", thing="checkpoint")
        texts.append(capsys.readouterr().out)
    assert len(set(texts)) == 1 and texts[0].startswith("usage: x")


def test_help_of_what_is_not_there_names_the_sections_and_what_is_near() -> None:
    with pytest.raises(
        ConfigError, match="--help = rate: is neither a section nor a field"
    ) as error:
        parse_config(Many, ["--help", "rate"], prog="mobilellama x", about="")
    assert str(error.value).endswith("Give all, rates; did you mean 'rates'?")


@pytest.mark.parametrize(
    ("of_type", "text"),
    [
        (int, "INT"),
        (bool, "true|false"),
        (None | str, "TEXT|null"),
        (str | int | None, "TEXT|INT|null"),
        (list[str], "TEXT,TEXT,..."),
        (list[int] | None, "INT,INT,...|null"),
        (dict[str, Any], "{NAME: VALUE}"),
        (Mapping[str, float], "{NAME: VALUE}"),
        (Literal["bf16", "fp32"] | None, "bf16|fp32|null"),
    ],
)
def test_a_type_is_written_as_its_values_are(of_type: Any, text: str) -> None:
    assert type_text(of_type) == text


def test_a_list_that_commas_do_not_part_is_written_as_words() -> None:
    assert type_text(list[str], commas=False) == "TEXT ..."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (False, "false"),
        (1e-6, "1e-06"),
        ("", '""'),
        ([], "[]"),
        (["a", "b"], "a,b"),
        ({}, "{}"),
        ({"a": 1}, '{"a": 1}'),
    ],
)
def test_a_value_is_written_as_the_command_line_takes_it(value: object, text: str) -> None:
    assert value_text(value) == text
