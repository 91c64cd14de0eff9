"""The command line: verbs of a stage, and configs read by jsonargparse.

    mobilellama STAGE VERB [--config FILE_OR_PRESET] [--section.field VALUE ...]

A verb is a module with a frozen dataclass ``Config`` and ``main(config) -> int``. Only the
module of the verb at hand is imported, so that ``--help`` answers at once.
"""

import argparse
import contextlib
import importlib
import itertools
import json
import os
import re
import socket
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from mobilellama import signals
from mobilellama.config import ConfigError, UserError, did_you_mean, one_line
from mobilellama.files.presets import Layer, find_preset, preset_names, read_layers
from mobilellama.launcher import tell_failure
from mobilellama.log import (
    has_launcher,
    local_rank_from_environment,
    rank_from_environment,
)

T = TypeVar("T")

_COMMAS = re.compile(r", (?![^\[]*\])")  # but for those in brackets


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb of a stage."""

    module: str
    """Module with ``Config`` and ``main(config) -> int``."""
    help: str
    """One line for the stage's ``--help``."""
    presets: Path | None = None
    """Folder of YAML files that ``--config NAME`` may name without path and ending."""
    interrupted: str | None = "nothing was changed"
    """What Ctrl-C leaves, and how to go on: told at once. None: the verb answers it itself."""
    is_run: bool = False
    """Whether it trains: signals ask it to save and stop, and it says itself how it goes on."""


def run_stage(stage: str, about: str, verbs: Mapping[str, Verb], argv: Sequence[str]) -> int:
    """Run the verb that `argv` names, or explain the stage.

    Raises:
        ConfigError: unknown verb, or an argument that does not fit the verb's config.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(_stage_help(stage, about, verbs))
        return 0 if argv else 2
    if argv[0] not in verbs:
        raise ConfigError(
            f"mobilellama {stage} VERB",
            argv[0],
            f"must be one of {', '.join(verbs)}",
            f"See 'mobilellama {stage} --help'{did_you_mean(argv[0], verbs)}",
        )
    verb = verbs[argv[0]]
    line = signals.BEFORE_STEPS if verb.is_run else verb.interrupted
    speaks = not verb.is_run or rank_from_environment() == 0
    with signals.answering(line, noting=verb.is_run, speaks=speaks) as answer:
        if has_launcher():
            answer.launcher = os.getppid()
        with contextlib.nullcontext() if verb.is_run else signals.leaving_at_once():
            module = importlib.import_module(verb.module)  # may take many seconds
        config = parse_config(
            module.Config,
            argv[1:],
            prog=f"mobilellama {stage} {argv[0]}",
            about=module.__doc__ or verb.help,
            presets=verb.presets,
        )
        return int(module.main(config))


def _stage_help(stage: str, about: str, verbs: Mapping[str, Verb]) -> str:
    width = max(map(len, verbs))
    lines = [f"usage: mobilellama {stage} VERB [--config FILE] [--section.field VALUE ...]", ""]
    lines += [*textwrap.wrap(about, 90), "", "verbs:"]
    lines += [f"  {name:<{width}}  {verb.help}" for name, verb in verbs.items()]
    return "\n".join([*lines, "", f"'mobilellama {stage} VERB --help' lists every field."])


def parse_config(
    config_class: type[T],
    argv: Sequence[str],
    *,
    prog: str,
    about: str,
    presets: Path | None = None,
) -> T:
    """Build the config from a YAML file (or preset), then overrides, then defaults.

    Raises:
        ConfigError: a field is unknown, missing, of the wrong type or breaks a rule.
    """
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
    parser = jsonargparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [--config FILE] [--section.field VALUE ...]",
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
    for action in parser._actions:
        if getattr(action, "_typehint", None) in (bool, bool | None):
            action.nargs, action.const = "?", True  # --flag alone means --flag true
    options = _option_names(parser)
    _hide_sections(parser, options)
    _require_values(argv, options, prog)
    argv = _join_lists(argv, parser)
    resolved, layers = _resolve_configs(argv, presets)
    for layer in layers:
        _check_fields(layer, prog, options)
    _note_missing(parser, resolved)
    try:
        parsed = parser.parse_args(resolved)
        _require_text(parsed)
        made = parser.instantiate(parsed)
        config = config_class(**{field.name: made[field.name] for field in fields(config_class)})  # type: ignore[arg-type]
    except (argparse.ArgumentError, jsonargparse.ArgumentError) as error:
        raise _explain(error, prog, argv, options) from None
    except (RecursionError, OverflowError) as error:
        rule = "is nested too deeply" if isinstance(error, RecursionError) else one_line(error)
        remedy = f"See '{prog} --help' for what each field takes"
        raise ConfigError(prog, " ".join(argv), rule, remedy) from None
    _require_64_bits(parsed)  # after the fields' own rules, which say more
    return config


def _as_typed(text: str) -> str:
    """Return a docstring as help: without RST, and with values as the command line takes them."""
    text = re.sub(r"(``?)([^`]+)\1", r"'\2'", text)
    text = re.sub(r"Optional\[(.*)\](?=[,)])", r"\1 | null", text)
    text = re.sub(r"Union\[(.*)\](?=[,)])", lambda match: _COMMAS.sub(" | ", match[1]), text)
    text = re.sub(r"(?<=default: )(True|False)\b", lambda match: match[0].lower(), text)
    return re.sub(r"\bNone\b", "null", text)


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


def _note_missing(parser: Any, argv: Sequence[str]) -> None:
    """Say on stderr which required fields --print_config, which prints without them, lacks."""
    import jsonargparse

    without = [word for word in argv if word.partition("=")[0] != "--print_config"]
    if len(without) == len(argv):
        return
    try:
        parser.parse_args(without)
    except RecursionError:
        return  # whoever parses it in earnest says so
    except (argparse.ArgumentError, jsonargparse.ArgumentError) as error:
        _, required, names = one_line(error).partition("arguments are required: ")
        if required:
            listed = ", ".join(f"--{name}" for name in names.split(", "))
            print(f"mobilellama: missing: {listed}", file=sys.stderr)


def _join_lists(argv: Sequence[str], parser: Any) -> list[str]:
    """Make one JSON list of all words after an option that takes strings: ``--image a.png b.png``.

    A list that is written as one stays as it is.
    """
    lists = {
        option
        for action in parser._actions
        if getattr(action, "_typehint", None) == list[str]
        for option in action.option_strings
        if not option.endswith("+")  # the parser's own way to add to a list
    }
    joined: list[str] = []
    words: dict[str, list[str]] = {}
    option = None  # whose words are being gathered
    for word in argv:
        flag, inline, value = word.partition("=")
        if word.startswith("-"):
            option = flag if flag in lists and not value.startswith("[") else None
            if option is None or option not in words:
                joined.append(word if option is None else option)
            if option is not None:
                words.setdefault(option, []).extend([value] if inline else [])
        elif option is None or word.startswith("["):
            joined.append(word)
        else:
            words[option].append(word)
    return [f"{word}={json.dumps(words[word])}" if words.get(word) else word for word in joined]


def _hide_sections(parser: Any, options: Sequence[str]) -> None:
    """Leave the sections' own options out of the help: one file holds the whole config."""
    for action in parser._actions:
        if action.option_strings and _is_section(action.option_strings[0], options):
            action.help = argparse.SUPPRESS


def _is_section(option: str, options: Sequence[str]) -> bool:
    # A list of sections has --LIST.help alone, which explains what one of them holds.
    return any(other.startswith(f"{option}.") for other in options if other != f"{option}.help")


def _require_values(argv: Sequence[str], options: Sequence[str], prog: str) -> None:
    """Refuse what is most likely an unset shell variable, and a file for one section."""
    for before, argument in itertools.pairwise(["", *argv]):
        flag, inline, value = argument.partition("=")
        if argument == "" or (inline and value == "" and flag in options):
            field = flag.lstrip("-") or before.lstrip("-") or prog
            raise ConfigError(field, "(empty)", "must not be empty", "Is a shell variable unset?")
        if _is_section(flag, options):
            rule, remedy = "is a section", f"Give {flag}.FIELD, or --config FILE for all sections"
            raise ConfigError(flag, value or _given(flag[2:], argv), rule, remedy)


def _option_names(parser: Any) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]


def _resolve_configs(argv: Sequence[str], presets: Path | None) -> tuple[list[str], list[Layer]]:
    """Replace each ``--config FILE_OR_PRESET`` by its layers; return also these layers."""
    resolved: list[str] = []
    layers: list[Layer] = []
    words = iter(argv)
    for word in words:
        name = word.removeprefix("--config=") if word.startswith("--config=") else None
        if word == "--config":
            name = next(words, None)
        if name is None:
            resolved.append(word)
            continue
        found = read_layers(find_preset(name, presets, "--config"), presets)
        resolved += [f"--config={layer.text or layer.path}" for layer in found]
        layers += found
    return resolved, layers


def _check_fields(layer: Layer, prog: str, options: Sequence[str]) -> None:
    """Refuse a config file that names what is not a field.

    The parser's own words for these are vague, or a traceback.
    """

    def check(fields_: Mapping[Any, Any], above: str) -> None:
        for name, value in fields_.items():
            field = f"{above}{name}"
            if _is_section(f"--{field}", options):
                if not isinstance(value, Mapping):
                    rule = f"is a section, and must hold 'field: value' lines (in {layer.path})"
                    raise ConfigError(field, value, rule, f"See '{prog} --help'")
                check(value, f"{field}.")
            elif f"--{field}" not in options:
                near = did_you_mean(field, [option.lstrip("-") for option in options])
                rule = f"is not a field (in {layer.path})"
                raise ConfigError(field, value, rule, f"See '{prog} --help'{near}")

    check(layer.values, "")


def _explain(
    error: Exception, prog: str, argv: Sequence[str], options: Sequence[str]
) -> ConfigError:
    """Turn the parser's complaint into ours: field, value, rule, remedy."""
    message = one_line(error)
    remedy = f"See '{prog} --help'"
    if message.startswith("unrecognized arguments: "):
        unknown = message.removeprefix("unrecognized arguments: ").split()
        flag, inline, value = unknown[0].partition("=")
        value = value if inline else " ".join(unknown[1:2]) or "(no value)"
        return ConfigError(flag, value, "is not a field", remedy + did_you_mean(flag, options))
    if message.startswith("argument --"):  # "argument --config: expected one argument"
        field, _, rule = message.removeprefix("argument ").partition(": ")
        return ConfigError(field, "(no value)", rule.rstrip("."), remedy)
    if message.startswith("the following arguments are required: "):
        missing = message.removeprefix("the following arguments are required: ").split(", ")
        field = ", ".join(f"--{name}" for name in missing)
        rule = "is required" if len(missing) == 1 else "are required"
        return ConfigError(field, "(not given)", rule, remedy)
    if message.startswith('Parser key "'):
        field, rule = message.removeprefix('Parser key "').split('":', 1)
        rule, _, value = rule.partition("Got value:")
        if union := re.search(r"Union subtypes Subtypes: \[([^\]]*)\]", rule):
            value = _given(field, argv)
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
    return ConfigError(prog, " ".join(argv), message.rstrip("."), remedy)


def _given(field: str, argv: Sequence[str]) -> str:
    """Return the value that the command line gives a field."""
    for argument, following in itertools.pairwise([*argv, ""]):
        if argument == f"--{field}":
            return following
        if argument.startswith(f"--{field}="):
            return argument.partition("=")[2]
    return "(in the config file)"


def report(error: UserError, *, alone: bool = False) -> int:
    """Print a user's error as one message and return the exit code 2.

    Every process of a run meets the same ConfigError, and the first of each node prints it
    (one node alone may lack a folder); any other error may be this process's alone.

    Args:
        error: what to tell.
        alone: whether no other process runs the same, whatever variables the shell has.
    """
    rank = local_rank = 0
    if not alone:
        with contextlib.suppress(ConfigError):  # a rank that is no number is as good as none
            rank, local_rank = rank_from_environment(), local_rank_from_environment()
    if local_rank == 0 or not isinstance(error, ConfigError):
        where = "" if rank == 0 else f" [rank {rank} on {socket.gethostname()}]"
        print(f"mobilellama: error:{where} {error}", file=sys.stderr)
    if error.final:
        tell_failure(str(error))
    return 2
