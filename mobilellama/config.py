"""Errors that a user can fix, and the checks that config dataclasses share.

A ``UserError`` is printed as one message without a traceback, and the command exits with code 2.
Any other exception is a bug in this software, and is shown with its traceback.
"""

import difflib
from collections.abc import Iterable

_MOST_CHARACTERS = 1_000
_MOST_OF_A_RULE = 4_000  # a rule can list many missing files


class UserError(Exception):
    """An error that the user can fix. The message says what is wrong and what to do."""

    final = True
    """Whether the same command would fail again, so that a launcher does not retry."""
    is_consequence = False
    """Whether it follows from another process's error, which that process prints."""
    told_here = False
    """Whether another process of this node prints the cause, of which this is a consequence."""


class ConfigError(UserError, ValueError):
    """A field's value breaks a rule. The message is ``field = value: rule. remedy.``."""

    def __init__(self, field: str, value: object, rule: str, remedy: str) -> None:
        """Take the dotted field, its value, the rule that it breaks and the remedy."""
        super().__init__(field, value, rule, remedy)  # all in args, so that it can be pickled
        self.field = field

    def __str__(self) -> str:
        field, value, rule, remedy = self.args
        end = "" if remedy.endswith("?") else "."
        said = _shortened(rule, _MOST_OF_A_RULE)
        return f"{_shortened(field)} = {as_given(value)}: {said}. {remedy}{end}"


def as_given(value: object) -> str:
    """Return a value as the command line takes it, shortened to fit into a message."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    try:
        return _shortened(str(value) if isinstance(value, str | int | float) else repr(value))
    except ValueError:  # Python writes no integers of more than 4,300 digits
        return "(an integer too long to be shown)"


def _shortened(text: str, most: int = _MOST_CHARACTERS) -> str:
    """Return a text short enough for a message. A user's value can be as long as a file."""
    more = len(text) - most
    return f"{text[:most]}... ({more:,} more characters)" if more > 0 else text


class MachineError(UserError):
    """A disk, path or permission error. It may be fixed before the next start, so retry."""

    final = False


class DataError(UserError):
    """A file's content is wrong: corrupt, truncated or changed."""


def one_line(error: BaseException) -> str:
    """Return a library's error message on one line; the error's type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the choice nearest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def require_at_least(field: str, value: float, least: float) -> None:
    """Raise ConfigError unless `value` is at least `least`."""
    if not value >= least:  # "not >=" also catches NaN
        raise ConfigError(field, value, f"must be at least {least}", f"Give {least} or more")


def require_share(field: str, value: float) -> None:
    """Raise ConfigError unless `value` is a share: at least 0 and below 1."""
    if not 0 <= value < 1:
        raise ConfigError(field, value, "must be at least 0 and below 1", "Give such a number")
