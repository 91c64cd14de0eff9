"""A config of its files and its command line, by jsonargparse.

The words are made plain before (words.py, config_files.py): the parser sees ``--field=VALUE`` and
files of known fields alone. Only what is public of it is used, and its error texts are read here
and nowhere else.
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
from mobilellama.commandline.words import Command, Given, missing_from, read_words, thing_text
from mobilellama.config import ConfigError, one_line
from mobilellama.files.presets import find_preset, preset_names, read_layers

T = TypeVar("T")

_COMMAS = re.compile(r", (?![^\[]*\])")  # but for those in brackets


def parse_config(
    config_class: type[T],
    argv: Sequence[str],
    *,
    prog: str,
    about: str,
    presets: Path | None = None,
    thing: str | None = None,
    first: Sequence[str] = (),
) -> T:
    """Build the config from a YAML file (or preset), then overrides, then defaults.

    Args:
        config_class: the frozen dataclass.
        argv: the words after the verb.
        prog: what the user typed before them, as ``mobilellama pretrain run``.
        about: what --help says first.
        presets: folder of YAML files that --config may name without path and ending.
        thing: the field that a word without a flag gives.
        first: the fields that --help shows beside those that are required.

    Raises:
        ConfigError: a field is unknown, missing, of the wrong type or breaks a rule.
    """
    command = Command(
        verb=prog.removeprefix("mobilellama "),
        prog=prog,
        fields=fields_of(config_class),
        thing=thing,
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
    parsed, made = _parse(_parser(config_class, prog), given, command)
    config = config_class(**{field.name: made[field.name] for field in fields(config_class)})  # type: ignore[arg-type]
    _require_64_bits(parsed)  # after the fields' own rules, which say more
    return config


def _asks_for_help(argv: Sequence[str]) -> str | None:
    """Return the word after --help, or "" where none follows; None where it is not asked for."""
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
    # No --SECTION FILE options: one file holds the whole config.
    parser.add_class_arguments(config_class, None, sub_configs=False, fail_untyped=True)
    return parser


def _read_files(given: Given, command: Command, presets: Path | None) -> list[ConfigFile]:
    """Read the files of --config, let the parser have them, and warn of old names."""
    words: list[str] = []
    files: list[ConfigFile] = []
    for word in given.words:
        flag, inline, name = word.partition("=")
        if flag != "--config" or not inline:
            words.append(word)
            continue
        for layer in read_layers(find_preset(name, presets, "--config"), presets):
            file = read_config_file(layer, command)
            words.append(f"--config={file.text or file.path}")
            files.append(file)
    given.words = words
    old = {f"{old} (in {file.path})": new for file in files for old, new in file.old_names.items()}
    warn_of(given.old_names | old)
    return files


def _require_fields(given: Given, files: Sequence[ConfigFile], command: Command) -> None:
    """Raise ConfigError where a required field is not given; --print_config only says so."""
    names = given.names.union(*(file.names for file in files))
    missing = missing_from(names, command.fields)
    if not missing:
        return
    listed = ", ".join(_as_flag(name, command.thing) for name in missing)
    if any(word.partition("=")[0] == "--print_config" for word in given.words):
        print(f"mobilellama: missing: {listed}", file=sys.stderr)
        return
    rule = "is required" if len(missing) == 1 else "are required"
    raise ConfigError(listed, "(not given)", rule, f"See '{command.prog} --help'")


def _as_flag(name: str, thing: str | None) -> str:
    return thing_text(name) if name == thing else f"--{name}"


def _parse(parser: Any, given: Given, command: Command) -> tuple[Any, Any]:
    """Return what the parser makes of the words: the fields, and the sections made of them."""
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
    """Raise ConfigError for a text that can be no path; YAML and JSON can write such."""
    for field, value in parsed.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            try:
                is_text = not isinstance(one, str) or b"\0" not in os.fsencode(one)
            except UnicodeEncodeError:  # half a surrogate pair
                is_text = False
            if not is_text:
                rule = "holds a character that no path or text can have"
                raise ConfigError(field, repr(one), rule, "Write it without that")


def _require_64_bits(parsed: Any) -> None:
    """Raise ConfigError for an integer that no library takes."""
    for field, value in parsed.items():  # dotted names, sections left out
        values = value if isinstance(value, list | tuple) else [value]
        for one in values:
            if isinstance(one, int) and not -(1 << 63) <= one < 1 << 63:
                raise ConfigError(field, one, "must fit into 64 bits", "Give a smaller number")


def _explain(error: Exception, given: Given, command: Command) -> ConfigError:
    """Turn the parser's complaint into ours: field, value, rule, remedy."""
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
        rule = (
            rule.strip()
            .rstrip(".")
            .replace("<class '", "")
            .replace("'>", "")
            .replace("typing.", "")
            .replace("a int", "an int")
        )
        return ConfigError(field, value.strip(), rule[:1].lower() + rule[1:], remedy)
    return ConfigError(command.prog, " ".join(given.words), message.rstrip("."), remedy)


def _given_to(field: str, given: Given) -> str:
    """Return the value that the command line gives a field."""
    for word in reversed(given.words):
        if word.startswith(f"--{field}="):
            return word.partition("=")[2]
    return "(in the config file)"
