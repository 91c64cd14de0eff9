"""Fields as a user gives them: what does not fit is named, and what is missing.

The texts of the parser's library are read in parser.py alone; an upgrade that words them otherwise
fails here.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

import mobilellama
from mobilellama.commandline.parser import parse_config
from mobilellama.config import ConfigError
from tests.helpers.command_line import ALL, GIVEN, HELP, RUN, Cli


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
    expected = f"{message} {ALL}; did you mean '--train.seq_len'?"
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
            f"engine.kind = dpp: expected one of deepspeed, ddp. {HELP}.",
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


@pytest.mark.parametrize(
    ("verb", "words", "is_taken"),
    [
        ("pretrain evaluate", "--tasks piqa DIR", True),
        ("pretrain evaluate", "--tasks=piqa DIR --limit 3", True),
        ("vlm evaluate", "--data D --output O --tasks gqa --tasks pope DIR", True),
        ("pretrain evaluate", "--tasks piqa", False),
        ("pretrain evaluate", "--tasks piqa,rte", False),
    ],
)
def test_a_missing_thing_that_a_list_may_have_taken_is_told_with_the_right_order(
    refused: Callable[..., str], verb: str, words: str, is_taken: bool
) -> None:
    taken = ", and DIR was taken as a value of --tasks. If DIR is MODEL, give it before --tasks: "
    rest = f"{taken}'mobilellama {verb} DIR --tasks ...'. " if is_taken else ". "
    assert refused(*verb.split(), *words.split()) == (
        f"MODEL = (not given): is required{rest}See 'mobilellama {verb} --help'."
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


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 1
    share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Every:
    count: int = 1
    kind: Literal["one", "two"] = "one"
    either: Literal["auto"] | int = "auto"
    maybe: int | None = None
    numbers: list[int] = field(default_factory=list)
    names: dict[str, Any] = field(default_factory=dict)
    section: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--count", "x"], "count = x: expected an int"),
        (["--count", "1.5"], "count = 1.5: expected an int"),
        (["--count", "null"], "count = null: expected an int"),
        (["--kind", "three"], "kind = three: expected one of one, two"),
        (["--either", "x"], "either = x: expected auto or int"),
        (["--maybe", "x"], "maybe = x: expected int or null"),
        (["--section.size", "x"], "section.size = x: expected an int"),
        (["--section.share", "x"], "section.share = x: expected float or null"),
        (["--numbers", "[a]"], "numbers = a: expected an int"),
        (["--names", "3"], "names = 3: expected a dict"),
        (["--count"], "--count = (no value): expected one argument"),
    ],
)
def test_a_complaint_of_the_parser_names_field_value_and_rule(
    argv: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(Every, argv, prog="mobilellama x", about="")
    assert str(error.value) == f"{message}. See 'mobilellama x --help'."


def test_no_other_module_knows_the_parsers_library() -> None:
    root = Path(mobilellama.__file__).parent
    knowing = [
        path.relative_to(root).as_posix()
        for path in sorted(root.rglob("*.py"))
        if "jsonargparse" in _imports(path)
    ]
    assert knowing == ["commandline/parser.py"]


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
    return found
