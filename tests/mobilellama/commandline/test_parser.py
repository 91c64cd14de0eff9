"""Fields as a user gives them: what does not fit is named, and what is missing."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from mobilellama.commandline.parser import parse_config
from mobilellama.config import ConfigError
from tests.helpers.command_line import GIVEN, HELP, RUN, Cli


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--train.seqlen", "3"), "--train.seqlen = 3: is not a field."),
        (("--train.seqlen=3",), "--train.seqlen = 3: is not a field."),
        (("--train.seq_le",), "--train.seq_le = (no value): is not a field."),
    ],
)
def test_a_field_that_does_not_exist_is_met_with_the_nearest(
    refused: Callable[..., str], arguments: tuple[str, ...], message: str
) -> None:
    expected = f"{message} {HELP}; did you mean '--train.seq_len'?"
    assert refused(*RUN, "--config", "demo", *GIVEN, *arguments) == expected


def test_a_field_has_one_name_and_no_abbreviation(refused: Callable[..., str]) -> None:
    """'--train.max' would else be taken for the one field that begins so, today."""
    message = refused(*RUN, "--config", "demo", *GIVEN, "--train.max", "3")
    assert message.startswith("--train.max = 3: is not a field.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--train.seq_len", "abc"), f"train.seq_len = abc: expected an int. {HELP}."),
        (
            ("--engine.kind", "dpp"),
            f"engine.kind = dpp: expected a Literal['deepspeed', 'ddp']. {HELP}.",
        ),
        (("--train.seq_len=-1",), "train.seq_len = -1: must be at least 1. Give 1 or more."),
        (("--train.seq_len",), f"--train.seq_len = (no value): expected one argument. {HELP}."),
        (
            ("--train.seq_len", "300"),
            "train.seq_len = 300: must not exceed model.max_seq_len = 256. "
            "Lower it or raise model.max_seq_len.",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_named(
    refused: Callable[..., str], arguments: tuple[str, ...], message: str
) -> None:
    assert refused(*RUN, "--config", "demo", *GIVEN, *arguments) == message


def test_an_empty_value_is_met_with_a_question(refused: Callable[..., str]) -> None:
    message = "data.path = (empty): must not be empty. Is a shell variable unset?"
    assert refused(*RUN, "--data.path", "") == message


def test_fields_that_are_missing_are_named_as_they_are_typed(refused: Callable[..., str]) -> None:
    assert refused(*RUN, "--config", "demo", "--data.path", "x") == (
        f"--run.folder = (not given): is required. {HELP}."
    )
    assert refused(*RUN, "--config", "demo") == (
        f"--run.folder, --data.path = (not given): are required. {HELP}."
    )


def test_print_config_says_which_required_fields_it_lacks(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, said in (
        (["--config", "demo"], "mobilellama: missing: --run.folder, --data.path\n"),
        (["--config", "demo", "--run.folder", "a"], "mobilellama: missing: --data.path\n"),
        (["--config", "demo", "--run.folder", "a", "--data.path", "b"], ""),
    ):
        with pytest.raises(SystemExit):
            cli(*RUN, *given, "--print_config")
        assert capsys.readouterr().err == said


@dataclass(frozen=True, kw_only=True)
class _Lists:
    """A config with a list of strings."""

    names: list[str] = field(default_factory=list)
    """Some names."""
    other: int = 1
    """Another field."""


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], []),
        (["--names", "a"], ["a"]),
        (["--names", "a b", "c,d", "--other", "1"], ["a b", "c,d"]),
        (["--names=a", "b"], ["a", "b"]),
        (["--names", "a", "--other", "1", "--names", "b"], ["a", "b"]),
        (["--names", "[a, b]"], ["a", "b"]),
        (['--names=["a", "b"]'], ["a", "b"]),
        (["--names+", "a", "--names+", "b"], ["a", "b"]),
    ],
)
def test_a_list_is_written_as_words_or_as_a_list(arguments: list[str], names: list[str]) -> None:
    config = parse_config(_Lists, arguments, prog="p", about="")
    assert (config.names, config.other) == (names, 1)


def test_a_list_without_words_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(no value\): expected one argument"):
        parse_config(_Lists, ["--names", "--other", "1"], prog="p", about="")
