"""Write the text of ``--help``, 80 columns wide.

It shows the fields that people set first, the fields of one section, or all fields. Types and
values are written as the command line takes them. A field's text is the docstring below it. The
docstring is read from the source, so that the verb itself is not imported.
"""

import ast
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mobilellama.commandline.fields import Field, members_of
from mobilellama.commandline.old_names import current_name
from mobilellama.commandline.prose import filled, plain
from mobilellama.commandline.words import Command, flag_text, thing_text
from mobilellama.config import ConfigError, as_given, did_you_mean
from mobilellama.terminal import folded

WIDTH = 80
MOST_SHOWN = 12
"""A verb with at most so many fields shows all. A verb with more shows those that are required and
its first ones."""
ALL = "all"
_INDENT = " " * 6
_NAMES = {bool: "true|false", int: "INT", float: "NUMBER", str: "TEXT", type(None): "null"}
_REQUIRED = object()
_LONG = re.compile(r"\S{50,}")


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What the help says about a field."""

    field: Field
    text: str
    default: Any


def help_text(
    config_class: type,
    command: Command,
    *,
    about: str,
    presets: Sequence[str],
    first: Sequence[str],
    asked: str | None,
) -> str:
    """Return the text that --help prints.

    Args:
        config_class: the verb's config.
        command: its command line.
        about: the text above the fields.
        presets: the names that --config takes.
        first: the fields that are shown besides the required ones.
        asked: the word after --help: all, or the name of a section or a field. None shows the
            required fields and `first`. So does another word, where the verb takes a thing.

    Raises:
        ConfigError: the word names no section and no field, and the verb takes no thing.
    """
    told = {one.field.name: one for one in _walk(config_class, command, "", None)}
    sections = sorted(command.fields.sections)
    if asked is not None and asked != ALL:
        wanted = asked.replace("-", "_")
        if wanted not in sections and wanted not in told:
            wanted = current_name(wanted, command.verb)
        names = [name for name in told if name == wanted or name.startswith(f"{wanted}.")]
        if names:
            return "\n".join(_entry(told[name], command) for name in names)
        if command.thing is None:
            known = [ALL, *sections, *told]
            rule = "is neither a section nor a field"
            remedy = f"Give {', '.join([ALL, *sections])}{did_you_mean(asked, known)}"
            raise ConfigError("--help", asked, rule, remedy)
    names = [*told] if asked == ALL or len(told) <= MOST_SHOWN else _first(told, first)
    word = "".join(f" {thing_text(name)}" for name in command.things)
    if command.thing and not told[command.thing].field.is_required:
        word = f" [{thing_text(command.thing)}]"
    flag = "--section.field" if sections else "--field"
    head = f"usage: {command.prog}{word} [--config FILE] [{flag} VALUE ...]"
    lines = [*_wrapped(head, "", " " * 11), "", filled(plain(about), WIDTH).strip(), ""]
    required = [name for name in names if told[name].field.is_required]
    for name in [*required, *(name for name in names if name not in required)]:
        lines.append(_entry(told[name], command))
    lines += _options(presets)
    if len(names) < len(told):
        end = f"These are {len(names)} of {len(told)} fields: '{command.prog} --help all' lists all"
        many = f", and '--help SECTION' those of {', '.join(sections)}" if sections else ""
        lines += ["", *_wrapped(f"{end}{many}.", "", "")]
    return "\n".join(lines)


def _first(told: Mapping[str, _Told], first: Sequence[str]) -> list[str]:
    return [*(name for name, one in told.items() if one.field.is_required), *first]


def _options(presets: Sequence[str]) -> list[str]:
    """Return the entries of the options that are not fields."""
    names = f", or a preset: {', '.join(presets)}" if presets else ""
    config = (
        f"YAML file of fields{names}. Later files override earlier ones, and fields override files."
    )
    return [
        "  --config FILE",
        *_wrapped(config, _INDENT, _INDENT),
        "  --print_config",
        f"{_INDENT}Print the resulting config, and do nothing else.",
    ]


def _entry(told: _Told, command: Command) -> str:
    """Return the lines of a field."""
    its = told.field
    flag = f"{flag_text(its.name)} {type_text(its.type, commas=its.commas)}"
    if its.name in command.things:
        flag = f"{thing_text(its.name)}, or {flag}"
    end = "required" if told.default is _REQUIRED else f"default: {value_text(told.default)}"
    lines = _wrapped(f"{flag} ({end})", "  ", _INDENT)
    return "\n".join([*lines, *_wrapped(told.text, _INDENT, _INDENT)])


def _wrapped(text: str, first: str, others: str) -> list[str]:
    """Fold a text to the width. A long list or choice is folded after a comma or a bar."""
    parted = _LONG.sub(lambda match: re.sub(r"([,|])", "\\1\0 ", match[0]), text)
    lines = folded(parted, WIDTH, first, others)
    return [line.replace("\0 ", "").replace("\0", "") for line in lines]


def type_text(of_type: Any, *, commas: bool = True) -> str:
    """Return how the command line writes a type's values.

    Args:
        of_type: the type of a field.
        commas: whether commas separate the elements of a list.
    """
    parts = [_name_of(one, commas) for one in members_of(of_type)]
    return "|".join(sorted(parts, key=lambda part: part == "null"))


def _name_of(of_type: Any, commas: bool) -> str:
    origin, args = get_origin(of_type), get_args(of_type)
    if origin is Literal:
        return "|".join(map(str, args))
    if origin is list:
        one = type_text(args[0])
        return f"{one},{one},..." if commas else f"{one} ..."
    if origin in (dict, Mapping):
        return "{NAME: VALUE}"
    return _NAMES.get(of_type, "VALUE")


def value_text(value: Any) -> str:
    """Return a value as the command line takes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "[]"
    if isinstance(value, Mapping):
        return json.dumps(dict(value))
    return '""' if value == "" else as_given(value)


def _walk(owner: type, command: Command, above: str, made: Any) -> Iterator[_Told]:
    """Yield what the help says about each field of a config or a section.

    Args:
        owner: the dataclass.
        command: the verb's command line.
        above: the section's dotted name and a dot, or an empty string.
        made: the section's default. None: the user must give the section.
    """
    hints, docs = get_type_hints(owner), docs_of(owner)
    for its in fields(owner):
        name = f"{above}{its.name}"
        default = _REQUIRED
        if made is not None:
            default = getattr(made, its.name)
        elif its.default is not MISSING:
            default = its.default
        elif its.default_factory is not MISSING:
            default = its.default_factory()
        if name in command.fields.by_name:
            text = plain(docs.get(its.name, ""))
            yield _Told(field=command.fields.by_name[name], text=text, default=default)
            continue
        assert is_dataclass(hints[its.name])
        inner = None if default is _REQUIRED else default
        yield from _walk(hints[its.name], command, f"{name}.", inner)


def docs_of(owner: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass, also of inherited fields."""
    docs: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        file = getattr(sys.modules.get(base.__module__), "__file__", None)
        if is_dataclass(base) and file:
            docs |= _docs_in(file).get(base.__name__, {})
    return docs


@cache
def _docs_in(file: str) -> dict[str, dict[str, str]]:
    """Return the docstrings of a source file: class -> field -> docstring."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ClassDef):
            continue
        docs = found.setdefault(node.name, {})
        for its, below in zip(node.body, node.body[1:], strict=False):
            match its, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    docs[name] = " ".join(text.split())
    return found
