"""The messages of errors that a user can fix."""

import math
import pickle

import pytest

from mobilellama.config import (
    ConfigError,
    DataError,
    UserError,
    did_you_mean,
    one_line,
    require_at_least,
    require_share,
)


def test_a_config_error_names_field_value_rule_and_remedy() -> None:
    error = ConfigError("train.seq_len", 0, "must be at least 1", "Give 1 or more")
    assert str(error) == "train.seq_len = 0: must be at least 1. Give 1 or more."
    assert error.field == "train.seq_len"
    assert isinstance(error, UserError) and isinstance(error, ValueError)


def test_another_library_s_message_stands_on_one_line() -> None:
    assert one_line(RuntimeError("line 1:\n   bad\tvalue.\n")) == "line 1: bad value."
    assert one_line(TimeoutError()) == "TimeoutError"


def test_a_question_needs_no_full_stop_and_other_values_are_shown_as_python_writes_them() -> None:
    error = ConfigError("a", None, "is wrong", "See x; did you mean 'b'?")
    assert str(error) == "a = null: is wrong. See x; did you mean 'b'?"
    assert str(ConfigError("a", ["x"], "r", "m")) == "a = ['x']: r. m."


def test_errors_survive_the_way_from_one_process_to_another() -> None:
    error = ConfigError("a.b", 3, "rule", "remedy")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ConfigError and str(again) == str(error) and again.field == "a.b"
    assert str(pickle.loads(pickle.dumps(DataError("bad file")))) == "bad file"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("seqlen", "; did you mean 'seq_len'?"),
        ("max_step", "; did you mean 'max_steps'?"),
        ("zebra", ""),
    ],
)
def test_a_typo_is_met_with_the_nearest_choice_or_with_nothing(name: str, expected: str) -> None:
    assert did_you_mean(name, iter(["seq_len", "max_steps", "path"])) == expected


@pytest.mark.parametrize("value", [0, -1, math.nan, -math.inf])
def test_what_is_not_at_least_the_least_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"x\.y = .*: must be at least 1\. Give 1 or more\."):
        require_at_least("x.y", value, 1)


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, math.nan])
def test_what_is_no_share_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"must be at least 0 and below 1"):
        require_share("x.y", value)


def test_values_at_the_bounds_pass() -> None:
    require_at_least("x", 1, 1)
    require_share("x", 0)
    require_share("x", 0.999)
