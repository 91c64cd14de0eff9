"""Build a config from files and a command line, with jsonargparse.

words.py and config_files.py bring the input into a plain form first. The parser then sees only
``--field=VALUE`` and files of known fields. Only its public functions are used. This file alone
reads its error texts.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from mobilellama.commandline.config_files import ConfigFile, read_config_file
from mobilellama.commandline.fields import fields_of
from mobilellama.commandline.help_text import help_text
from mobilellama.commandline.old_names import warn_of
from mobilellama.commandline.words import (
    Command,
    Given,
    flag_text,
    missing_from,
    read_words,
    thing_text,
)
from mobilellama.config import ConfigError, as_given, one_line
from mobilellama.files.presets import find_preset, preset_names, read_layers

T = TypeVar("T")

_CHOICES = re.compile(r"(?:a )?Literal\[([^\]]*)\]")
_IN_FILE = "(in a config file)"
_COMMAS = re.compile(r", (?![^\[]*\])")  # not those in brackets


def parse_config(
    config_class: type[T],
    argv: Sequence[str],
    *,
    prog: str,
    about: str,
    presets: Path | None = None,
    thing: str | None = None,
    second: str | None = None,
    first: Sequence[str] = (),
    meant: tuple[str, ...] = (),
) -> T:
    """Build the config from YAML files (or presets), fields of the command line, and defaults.

    Args:
        config_class: the frozen dataclass.
        argv: the words after the verb.
        prog: the words before, such as ``mobilellama pretrain run``.
        about: the first text of --help.
        presets: folder of YAML files. --config may name them without path and suffix.
        thing: the field that takes a word without a flag.
        second: the field that takes a second one.
        first: the fields that --help shows besides the required ones.
        meant: the fields that a word too many is most likely meant for.

    Raises:
        ConfigError: a field is unknown or missing, has the wrong type, or breaks a rule.
    """
    command = Command(
        verb=prog.removeprefix("mobilellama "),
        prog=prog,
        fields=fields_of(config_class),
        thing=thing,
        second=second,
        meant=meant,
    )
    if (asked := _asks_for_help(argv)) is not None:
        names = preset_names(presets) if presets else ()
        print(
            help_text(
                config_class, command, about=about, presets=names, first=first, asked=asked or None
            )
        )
        raise SystemExit(0)
    given = read_words(argv, command)
    files = _read_files(given, command, presets)
    _require_fields(given, files, command)
    try:
        parsed, made = _parse(_parser(config_class, prog), given, command)
        config = config_class(**{field.name: made[field.name] for field in fields(config_class)})  # type: ignore[arg-type]
        _require_64_bits(parsed)  # last, because a field's own rule says more
    except ConfigError as error:
        raise _with_place(error, given, files, command) from None
    return config


def _asks_for_help(argv: Sequence[str]) -> str | None:
    """Return the word after --help, or "" if none follows. None: no help is asked for."""
    for i, word in enumerate(argv):
        flag, _, asked = word.partition("=")
        if flag in ("-h", "--help"):
            after = next(iter(argv[i + 1 :]), "")
            return asked or ("" if after.startswith("-") else after)
    return None


def _parser(config_class: type, prog: str) -> Any:
    import jsonargparse
    from jsonargparse import ActionConfigFile  # pyright: ignore[reportPrivateImportUsage]

    parser = jsonargparse.ArgumentParser(prog=prog, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action=ActionConfigFile)
    # sub_configs=False: no --SECTION FILE options, since one file holds the whole config.
    parser.add_class_arguments(config_class, None, sub_configs=False, fail_untyped=True)
    return parser


def _read_files(given: Given, command: Command, presets: Path | None) -> list[ConfigFile]:
    """Read the files of --config, pass them to the parser, and warn of old names.

    The parser takes words in their order. Files go first, so that a field of the command line
    overrides every file, also one that stands after it.
    """
    others: list[str] = []
    configs: list[str] = []
    files: list[ConfigFile] = []
    for word in given.words:
        flag, inline, name = word.partition("=")
        if flag != "--config" or not inline:
            others.append(word)
            continue
        for layer in read_layers(find_preset(name, presets, "--config"), presets):
            file = read_config_file(layer, command)
            configs.append(f"--config={file.text or file.path}")
            files.append(file)
    given.words = configs + others
    old = {f"{old} (in {file.path})": new for file in files for old, new in file.old_names.items()}
    warn_of(given.old_names | old)
    return files


def _require_fields(given: Given, files: Sequence[ConfigFile], command: Command) -> None:
    """Raise ConfigError if a required field is not given. With --print_config, print it only."""
    names = given.names.union(*(file.values for file in files))
    missing = missing_from(names, command.fields)
    if not missing:
        return
    listed = ", ".join(_as_flag(name, command.things) for name in missing)
    if any(word.partition("=")[0] == "--print_config" for word in given.words):
        print(f"mobilellama: missing: {listed}", file=sys.stderr)
        return
    rule = "is required" if len(missing) == 1 else "are required"
    remedy = f"See '{command.prog} --help'"
    if command.thing in missing and given.last_of_list is not None:
        name, word = given.last_of_list
        flag, thing = flag_text(name), thing_text(command.thing)
        rule += f", and {word} was taken as a value of {flag}"
        right = f"{command.prog} {word} {flag} ..."
        remedy = f"If {word} is {thing}, give it before {flag}: '{right}'. {remedy}"
    raise ConfigError(listed, "(not given)", rule, remedy)


def _as_flag(name: str, things: Sequence[str]) -> str:
    return thing_text(name) if name in things else flag_text(name)


def _parse(parser: Any, given: Given, command: Command) -> tuple[Any, Any]:
    """Parse the words. Return the fields, and the sections built from them."""
    import jsonargparse

    try:
        parsed = parser.parse_args(given.words)
        _require_text(parsed)
        return parsed, parser.instantiate(parsed)
    except (argparse.ArgumentError, jsonargparse.ArgumentError) as error:
        raise _explain(error, given, command) from None
    except (RecursionError, OverflowError) as error:
        rule = "is nested too deeply" if isinstance(error, RecursionError) else one_line(error)
        remedy = f"See '{command.prog} --help' for what each field takes"
        raise ConfigError(command.prog, " ".join(given.words), rule, remedy) from None


def _require_text(parsed: Any) -> None:
    """Raise ConfigError for a text that cannot be a path. YAML and JSON can hold such texts."""
    for field, value in parsed.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            try:
                is_text = not isinstance(one, str) or b"\0" not in os.fsencode(one)
            except UnicodeEncodeError:  # half a surrogate pair
                is_text = False
            if not is_text:
                rule = "holds a character that no path or text can have"
                raise ConfigError(field, repr(one), rule, "Remove that character")


def _require_64_bits(parsed: Any) -> None:
    """Raise ConfigError for an integer that does not fit into 64 bits: no library takes it."""
    for field, value in parsed.items():  # dotted names, sections left out
        values = value if isinstance(value, list | tuple) else [value]
        for one in values:
            if isinstance(one, int) and not -(1 << 63) <= one < 1 << 63:
                raise ConfigError(field, one, "must fit into 64 bits", "Give a smaller number")


def _explain(error: Exception, given: Given, command: Command) -> ConfigError:
    """Turn the parser's error into ours: field, value, rule, remedy."""
    message = one_line(error)
    remedy = f"See '{command.prog} --help'"
    if message.startswith("argument --"):  # "argument --config: expected one argument"
        field, _, rule = message.removeprefix("argument ").partition(": ")
        return ConfigError(field, "(no value)", rule.rstrip("."), remedy)
    if message.startswith('Parser key "'):
        field, rule = message.removeprefix('Parser key "').split('":', 1)
        rule, _, value = rule.partition("Got value:")
        if union := re.search(r"Union subtypes Subtypes: \[(.*)\] Errors:", rule):
            value = _given_to(field, given)
            rule = "expected " + _COMMAS.sub(" or ", union[1].replace("NoneType", "null"))
        elif value.strip() == "None":
            value = _given_to(field, given)
        rule = (
            rule.strip()
            .rstrip(".")
            .replace("<class '", "")
            .replace("'>", "")
            .replace("typing.", "")
            .replace("a int", "an int")
        )
        rule = _CHOICES.sub(_choices, rule)
        return ConfigError(field, value.strip(), rule[:1].lower() + rule[1:], remedy)
    return ConfigError(command.prog, " ".join(given.words), message.rstrip("."), remedy)


def _choices(found: re.Match[str]) -> str:
    """Return the values of a Literal as the command line takes them."""
    values = found[1].replace("'", "")
    return f"one of {values}" if "," in values else values


def _given_to(field: str, given: Given) -> str:
    """Return the value that the command line gives to a field, or that a file does."""
    for word in reversed(given.words):
        if word.startswith(f"--{field}="):
            return word.partition("=")[2]
    return _IN_FILE


def _with_place(
    error: ConfigError, given: Given, files: Sequence[ConfigFile], command: Command
) -> ConfigError:
    """Return a field's error with the file and the line that gave the value.

    The parser stops at the first file with a wrong value, also where a later file or the command
    line gives another. So the value decides which file it was, and else the order.
    """
    field, value, rule, remedy = error.args
    mapping = command.fields.mapping_of(field)  # the user chooses its keys
    name = mapping.name if mapping else field
    having = [file for file in files if name in file.values]
    same = [file for file in having if as_given(file.values[name]) == as_given(value)]
    is_told = field in given.names and (not same or _given_to(field, given) == as_given(value))
    if not having or is_told:
        return error
    file = (same or having[-1:])[0]
    value = as_given(file.values[name]) if value == _IN_FILE else value
    return ConfigError(field, value, f"{rule} (in {file.place_of(name)})", remedy)
