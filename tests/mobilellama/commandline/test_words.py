"""What a command line may look like, and what it is taken for."""

from dataclasses import dataclass, field, replace

import pytest

from mobilellama.commandline.fields import fields_of
from mobilellama.commandline.words import Command, read_words
from mobilellama.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class _Section:
    """Some fields."""

    seq_len: int = 1
    """A number."""
    loud: bool = False
    """A flag."""
    env: dict[str, str] = field(default_factory=dict)
    """Names of the user's own."""


@dataclass(frozen=True, kw_only=True)
class _Config:
    """A config with one field of each kind."""

    dataset: str
    """The thing."""
    json: bool | None = None
    """A flag."""
    budget: float | None = None
    """A number."""
    tasks: list[str] = field(default_factory=list)
    """Texts."""
    setup: list[str] = field(default_factory=list, metadata={"commas": False})
    """Lines."""
    dry_run: bool = False
    """A flag with a hyphen."""
    train: _Section = field(default_factory=_Section)
    """A section."""


COMMAND = Command(verb="x y", prog="p", fields=fields_of(_Config), thing="dataset")


def words(*argv: str) -> list[str]:
    return read_words(argv, COMMAND).words


@pytest.mark.parametrize(
    ("argv", "taken"),
    [
        ("DATA", "--dataset=DATA"),
        ("DATA --json", "--dataset=DATA --json=true"),
        ("--json DATA", "--json=true --dataset=DATA"),
        ("--json false DATA", "--json=false --dataset=DATA"),
        ("--budget 3 DATA", "--budget=3 --dataset=DATA"),
        ("--budget=3 DATA", "--budget=3 --dataset=DATA"),
        ("--budget -3 DATA", "--budget=-3 --dataset=DATA"),
        ("--budget -.5e3 DATA", "--budget=-.5e3 --dataset=DATA"),
        ("--dataset DATA", "--dataset=DATA"),
        ("DATA --dataset DATA", "--dataset=DATA --dataset=DATA"),
        ("--dataset DATA DATA", "--dataset=DATA --dataset=DATA"),
    ],
)
def test_a_word_that_no_flag_takes_is_the_thing(argv: str, taken: str) -> None:
    assert words(*argv.split()) == taken.split()


def test_hyphens_and_underscores_are_the_same_in_flags_but_not_in_keys_and_values() -> None:
    given = ["--train.seq-len", "a-b", "--train.env.MY-KEY_1=x-y", "--train.loud"]
    assert words(*given) == ["--train.seq_len=a-b", "--train.env.MY-KEY_1=x-y", "--train.loud=true"]
    assert words("--print-config") == ["--print_config"]


@pytest.mark.parametrize(
    ("argv", "taken"),
    [
        (["--tasks", "a,b"], '["a", "b"]'),
        (["--tasks=a, b"], '["a", "b"]'),
        (["--tasks", "[a,b]"], "[a,b]"),
        (["--tasks", "a", "b"], '["a", "b"]'),
        (["--tasks", "a", "--tasks", "b"], '["a", "b"]'),
        (["--tasks", "a b", "c,d"], '["a b", "c,d"]'),
        (["--tasks", "a"], '["a"]'),
    ],
)
def test_a_list_may_be_written_in_each_of_the_usual_ways(argv: list[str], taken: str) -> None:
    assert words(*argv) == [f"--tasks={taken}"]


@pytest.mark.parametrize("tasks", ["a,b", "[a,b]"])
def test_a_list_in_one_word_does_not_take_the_thing_after_it(tasks: str) -> None:
    assert words("--tasks", tasks, "DATA")[1:] == ["--dataset=DATA"]


def test_commas_do_not_part_a_line_of_a_shell() -> None:
    assert words("--setup", "export A=0,1") == ['--setup=["export A=0,1"]']


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["A", "B"], "DATASET = B: is a second DATASET beside A; the command takes one. Remove"),
        (["A", "--dataset", "B"], "DATASET = B: is a second DATASET beside A; the command takes"),
        (["--dataset=A", "B"], "DATASET = B: is a second DATASET beside A; the command takes"),
        ([""], "dataset = (empty): must not be empty. Is a shell variable unset?"),
        (["--budget", ""], "budget = (empty): must not be empty. Is a shell variable unset?"),
        (
            ["--budge", "3"],
            "--budge = 3: is not a field. See 'p --help all'; did you mean '--budget'?",
        ),
        (["-j"], "-j = (no value): is not a field."),
        (["--train", "3"], "--train = 3: is a section. Give --train.FIELD, or --config FILE"),
        (["--budget.x", "3"], "--budget.x = 3: is not a field: --budget has none. Give --budget"),
    ],
)
def test_what_is_none_of_these_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        words(*argv)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("thing", "argv", "remedy"),
    [
        ("dataset", ["A", "B"], "Give its flag before it: --train.seq_len or --dry-run. See 'p"),
        ("dataset", ["A", "--budget", "3", "B"], "Give its flag before it: --train.seq_len or --d"),
        (None, ["B"], "Give its flag before it: --train.seq_len or --dry-run. See 'p --help'."),
        (
            None,
            ["B", "--train.seq-len", "1"],
            "Remove it. If it belongs to the value of --train.seq_len, put that value in quotes. ",
        ),
        (
            "dataset",
            ["A", "--dry_run=1", "B"],
            "Remove it. If it belongs to the value of --dry-run, put that value in quotes. See 'p",
        ),
        ("dataset", ["A", "--dataset", "B"], "Remove one of them. See 'p --help'."),
    ],
)
def test_a_word_too_many_is_met_with_the_flags_that_it_may_be_meant_for(
    thing: str | None, argv: list[str], remedy: str
) -> None:
    command = replace(COMMAND, thing=thing, meant=("train.seq_len", "dry_run"))
    with pytest.raises(ConfigError) as error:
        read_words(argv, command)
    assert error.value.args[1] == "B"
    assert f"{error.value.args[3]}.".startswith(remedy)


def test_a_mapping_with_a_key_twice_is_refused() -> None:
    assert words("--train.env", "{A: 1, B: 1}") == ["--train.env={A: 1, B: 1}"]
    with pytest.raises(ConfigError) as error:
        words("--train.env", '{A: 1, "A": 2}')
    assert str(error.value) == (
        "train.env = {A: 1, \"A\": 2}: it has the key 'A' twice, on line 1 and on line 1; remove "
        "one of them. Correct the mapping."
    )


def test_a_value_that_is_left_out_is_the_parsers_to_refuse() -> None:
    assert words("--budget", "--json") == ["--budget", "--json=true"]


@pytest.mark.parametrize("text", ["- one item", "--loud is a flag = yes", "-\tx"])
def test_a_text_that_begins_with_a_dash_is_a_value(text: str) -> None:
    assert words("--dataset", text) == [f"--dataset={text}"]


def test_a_verb_of_two_things_takes_two_words_and_no_third() -> None:
    command = replace(COMMAND, second="tasks")
    assert read_words(["A", "--json", "B"], command).words == [
        "--dataset=A", "--json=true", "--tasks=B",
    ]  # fmt: skip
    assert read_words(["B", "--tasks=C"], command).words[0] == "--dataset=B"
    for argv in (["A", "B", "C"], ["A", "B", "C", "--json"]):
        with pytest.raises(
            ConfigError,
            match=r"= C: is one word too many; the command takes "
            r"DATASET and TASKS\. Remove",
        ):
            read_words(argv, command)
