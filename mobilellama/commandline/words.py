"""Turn the words of a command line into the plain form ``--field=VALUE``, with today's names.

1. A word without a dash that is no flag's value is the verb's dataset, run or model. A verb that
   takes two of them takes two words.
2. Hyphens in a flag become underscores. An old name becomes today's name.
3. ``--flag`` without a value becomes ``--flag=true``, if the field is true or false.
4. A list is written as ``a,b``, as ``[a,b]``, as several words, or with the flag repeated.
"""

import json
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from mobilellama.commandline.fields import Field, Fields
from mobilellama.commandline.old_names import current_name
from mobilellama.commandline.peer_names import hint
from mobilellama.config import ConfigError, did_you_mean, one_line
from mobilellama.files.yaml_file import read_yaml_text

OWN = ("config", "print_config")
"""Flags that are not fields."""
_THINGS = {"checkpoint": "RUN", "folder": "MODEL", "data.path": "RECORDS"}
"""Field that a verb takes without a flag -> its name in the help, where that differs."""
_SPELLED = {"dry_run": "dry-run"}
"""Field -> its flag in help, where that differs. Any other flag is the field's name in a file."""
_NUMBER = re.compile(r"-\.?\d.*")
_TRUTH = ("true", "false", "yes", "no", "null")


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a command line may give."""

    verb: str
    """Stage and verb, such as ``pretrain run``. Old names depend on it."""
    prog: str
    """The command as the user writes it, for 'See ... --help'."""
    fields: Fields
    """The fields of the config."""
    thing: str | None = None
    """The field that takes a word without a flag."""
    second: str | None = None
    """The field that takes a second one."""
    meant: tuple[str, ...] = ()
    """The fields that a word too many is most likely meant for, for its error."""

    @property
    def things(self) -> tuple[str, ...]:
        """The fields that take words without a flag, in order."""
        return tuple(name for name in (self.thing, self.second) if name is not None)

    @property
    def flags(self) -> list[str]:
        """Every flag of the command."""
        return [f"--{name}" for name in (*self.fields.by_name, *OWN)]


@dataclass(kw_only=True)
class Given:
    """What a command line gives."""

    words: list[str] = field(default_factory=list)
    """``--field=VALUE``, in order; only the flag if the value is missing."""
    old_names: dict[str, str] = field(default_factory=dict)
    """Old flag in the command -> its form of today."""
    last_of_list: tuple[str, str] | None = None
    """The last list that was given as several words: its field, and the last of the words."""

    @property
    def names(self) -> set[str]:
        """The names of all fields that are given."""
        return {word.partition("=")[0].removeprefix("--") for word in self.words}


def read_words(argv: Sequence[str], command: Command) -> Given:
    """Bring a command line into the plain form.

    Raises:
        ConfigError: a word is empty, or the command has no such flag.
    """
    given, lists, words = Given(), dict[str, list[str]](), list(argv)
    thing = None
    while words:
        word = words.pop(0)
        if not _is_flag(word):
            _require_given(word, command.thing or command.prog)
            given.words.append(_as_thing(word, command, given, thing, argv))
            thing = word
            continue
        flag, inline, value = word.partition("=")
        shown = value if inline else next((word for word in words[:1] if not _is_flag(word)), None)
        name = _name_of(flag, "(no value)" if shown is None else shown, command, given)
        if inline:
            _require_given(value, name)
        its = command.fields.by_name.get(name.removesuffix("+"))
        if its is not None and its.is_list_of_texts and not name.endswith("+"):
            values = _take_list([value] if inline else [], words, its)
            if len(values) > 1:
                given.last_of_list = (name, values[-1])
            if name not in lists:
                lists[name] = values
                given.words.append(f"--{name}")
            else:
                lists[name] += values
            continue
        if not inline:
            value = _take_value(name, its, words)
        if its is not None and its.is_mapping and value and value.startswith("{"):
            _require_readable(value, name)
        if name == command.thing and thing is not None and value != thing:
            raise _second_thing(value or "(no value)", thing, command, "Remove one of them")
        given.words.append(f"--{name}" if value is None else f"--{name}={value}")
    for i, word in enumerate(given.words):
        if values := lists.get(word.removeprefix("--")):
            its = command.fields.by_name[word.removeprefix("--")]
            given.words[i] = f"{word}={_as_list(values, its)}"
    return given


def thing_text(field_: str) -> str:
    """Return the name of a verb's thing in help and messages: DATASET, RECORDS, RUN or MODEL."""
    return _THINGS.get(field_, field_.upper())


def flag_text(field_: str) -> str:
    """Return the flag of a field as help and documents write it."""
    return f"--{_SPELLED.get(field_, field_)}"


def _is_flag(word: str) -> bool:
    """Return whether a word is a flag. A word with a blank is a text that begins with a dash."""
    name = word.partition("=")[0]
    is_text = any(map(str.isspace, name))
    return word.startswith("-") and word != "-" and not _NUMBER.fullmatch(word) and not is_text


def _require_given(value: str, field_: str) -> None:
    """Raise ConfigError for an empty word: most likely a shell variable is unset."""
    if value == "":
        raise ConfigError(field_, "(empty)", "must not be empty", "Is a shell variable unset?")


def _as_thing(
    word: str, command: Command, given: Given, former: str | None, argv: Sequence[str]
) -> str:
    """Return a word without a flag as ``--field=WORD``.

    Args:
        word: the word.
        command: what may be given.
        given: what was given before.
        former: an earlier word without a flag.
        argv: the whole command line.
    """
    if command.thing is None:
        rule = "is not a flag or the value of a flag"
        remedy = f"{_flag_meant(command, argv) or 'Remove it'}. See '{command.prog} --help'"
        raise ConfigError(command.prog, word, rule, remedy)
    start = f"--{command.thing}="
    if former is not None and command.second is not None and command.second not in given.names:
        return f"--{command.second}={word}"
    if former is not None:
        meant = _flag_meant(command, argv)
        raise _second_thing(word, former, command, meant or "Remove one of them")
    for flag in given.words:
        if flag.startswith(start) and flag != f"{start}{word}":
            raise _second_thing(word, flag.removeprefix(start), command, "Remove one of them")
    return f"{start}{word}"


def _flag_meant(command: Command, argv: Sequence[str]) -> str | None:
    """Return what to do with a word too many, if one can guess it.

    If the flag that it may be meant for is there already, the word is most likely a part of a text
    with blanks.
    """
    flags = [flag_text(name) for name in command.meant]
    there = {word.partition("=")[0].replace("_", "-") for word in argv}
    if used := next((flag for flag in flags if flag.replace("_", "-") in there), None):
        return f"Remove it. If it belongs to the value of {used}, put that value in quotes"
    return f"Give its flag before it: {' or '.join(flags)}" if flags else None


def _require_readable(mapping: str, name: str) -> None:
    """Raise ConfigError for a mapping that no file may hold either: with a key twice."""
    try:
        read_yaml_text(mapping)
    except ValueError as error:
        raise ConfigError(name, mapping, one_line(error), "Correct the mapping") from None


def _second_thing(second: str, former: str, command: Command, remedy: str) -> ConfigError:
    """Return the error for a thing that is given twice."""
    assert command.thing is not None
    name = thing_text(command.thing)
    rule = f"is a second {name} beside {former}; the command takes one"
    if command.second is not None:
        taken = " and ".join(map(thing_text, command.things))
        rule = f"is one word too many; the command takes {taken}"
    return ConfigError(name, second, rule, f"{remedy}. See '{command.prog} --help'")


def _name_of(flag: str, value: str, command: Command, given: Given) -> str:
    """Return the name of the field that a flag means, and record an old name.

    Raises:
        ConfigError: there is no such field.
    """
    said = flag.lstrip("-")
    known = command.fields
    head, dot, key = said, "", ""
    if mapping := known.mapping_of(said.replace("-", "_")):  # the user chooses the key
        head, dot, key = said[: len(mapping.name)], ".", said[len(mapping.name) + 1 :]
    head = head.replace("-", "_")
    ending = "+" if head.endswith("+") else ""
    name = head.removesuffix("+")
    if flag.startswith("--") and (name in known.by_name or name in OWN):
        return head + dot + key
    new = current_name(name, command.verb)
    if flag.startswith("--") and new != name and new in known.by_name:
        is_thing = new == command.thing
        given.old_names[flag] = f"{thing_text(new)} (without a flag)" if is_thing else f"--{new}"
        return new + ending
    raise _unknown(flag, value, name, command)


def _unknown(flag: str, value: str, name: str, command: Command) -> ConfigError:
    """Return the error for a flag that is not a field."""
    known, remedy = command.fields, f"See '{command.prog} --help all'"
    if name in known.sections:
        remedy = f"Give --{name}.FIELD, or --config FILE for all sections"
        return ConfigError(flag, value, "is a section", remedy)
    parts = name.split(".")
    for end in range(1, len(parts)):
        if (above := ".".join(parts[:end])) in known.by_name:
            remedy = f"Give --{above} VALUE. {remedy}"
            return ConfigError(flag, value, f"is not a field: --{above} has none", remedy)
    near = hint(name, {*known.by_name, *OWN}) or did_you_mean(f"--{name}", command.flags)
    return ConfigError(flag, value, "is not a field", remedy + near)


def _take_value(name: str, its: Field | None, words: list[str]) -> str | None:
    """Take the value that follows a flag. None: no value follows."""
    follows = bool(words) and not _is_flag(words[0])
    if name == "print_config":
        return None
    if its is not None and its.is_flag:
        return words.pop(0) if follows and words[0].lower() in _TRUTH else "true"
    if not follows:
        return None
    _require_given(words[0], name)
    return words.pop(0)


def _take_list(values: list[str], words: list[str], its: Field) -> list[str]:
    """Take all words that follow, up to the next flag. ``a,b`` and ``[a,b]`` are whole lists."""
    while not (values and _is_whole(values[0], its)) and words and not _is_flag(words[0]):
        _require_given(words[0], its.name)
        values.append(words.pop(0))
    return values


def _is_whole(value: str, its: Field) -> bool:
    return value.startswith("[") or (its.commas and "," in value)


def _as_list(values: Sequence[str], its: Field) -> str:
    """Return the words of a list as one JSON list. A word that is a JSON list stays as it is."""
    if values[0].startswith("["):
        return values[0]
    return json.dumps(parts_of(values[0], its) if len(values) == 1 else list(values))


def parts_of(text: str, its: Field) -> list[str]:
    """Return the elements of a list in the form ``a,b``."""
    if not its.commas:
        return [text]
    return [part for word in text.split(",") if (part := word.strip())]


def missing_from(names: Set[str], fields: Fields) -> list[str]:
    """Return the required fields that are not among those given."""
    required = [name for name, its in fields.by_name.items() if its.is_required]
    return [name for name in required if name not in names]
