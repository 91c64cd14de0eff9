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
) -> T:
    """Build the config from a YAML file (or preset), then overrides, then defaults.

    Args:
        config_class: the frozen dataclass.
        argv: the words after the verb.
        prog: what the user typed before them, as ``mobilellama pretrain run``.
        about: what --help says first.
        presets: folder of YAML files that --config may name without path and ending.
        thing: the field that a word without a flag gives.

    Raises:
        ConfigError: a field is unknown, missing, of the wrong type or breaks a rule.
    """
    command = Command(
        verb=prog.removeprefix("mobilellama "),
        prog=prog,
        fields=fields_of(config_class),
        thing=thing,
    )
    parser = _parser(config_class, prog=prog, about=about, presets=presets, thing=thing)
    if {"-h", "--help"} & set(argv):
        parser.parse_args(["--help"])  # leaves
    given = read_words(argv, command)
    files = _read_files(given, command, presets)
    _require_fields(given, files, command)
    parsed, made = _parse(parser, given, command)
    config = config_class(**{field.name: made[field.name] for field in fields(config_class)})  # type: ignore[arg-type]
    _require_64_bits(parsed)  # after the fields' own rules, which say more
    return config


def _parser(
    config_class: type, *, prog: str, about: str, presets: Path | None, thing: str | None
) -> Any:
    import jsonargparse
    from jsonargparse import (
        ActionConfigFile,  # pyright: ignore[reportPrivateImportUsage]
        DefaultHelpFormatter,
    )

    class Formatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """Keeps the line breaks of a module's docstring; shows types and defaults."""

        def _expand_help(self, action: argparse.Action) -> str:
            return _as_typed(super()._expand_help(action))

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    word = f" {thing_text(thing)}" if thing else ""
    parser = jsonargparse.ArgumentParser(
        prog=prog,
        usage=f"{prog}{word} [--config FILE] [--section.field VALUE ...]",
        description=_as_typed(about),
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=Formatter,
    )
    names = f" or a preset: {', '.join(preset_names(presets))}" if presets else ""
    parser.add_argument(
        "--config", action=ActionConfigFile, help=f"YAML file of fields{names}; later ones overrule"
    )
    # No --SECTION FILE options: one file holds the whole config.
    parser.add_class_arguments(config_class, None, sub_configs=False, fail_untyped=True)
    return parser


def _as_typed(text: str) -> str:
    """Return a docstring as help: without RST, and with values as the command line takes them."""
    text = re.sub(r"(``?)([^`]+)\1", r"'\2'", text)
    text = re.sub(r"Optional\[(.*)\](?=[,)])", r"\1 | null", text)
    text = re.sub(r"Union\[(.*)\](?=[,)])", lambda match: _COMMAS.sub(" | ", match[1]), text)
    text = re.sub(r"(?<=default: )(True|False)\b", lambda match: match[0].lower(), text)
    return re.sub(r"\bNone\b", "null", text)


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
        if union := re.search(r"Union subtypes Subtypes: \[([^\]]*)\]", rule):
            value = _given_to(field, given)
            rule = "expected " + union[1].replace("NoneType", "null").replace(", ", " or ")
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
