"""Turn parsed JSON into dataclasses, and check the type of every value.

The content of a file can be anything. ``from_json`` turns it into a dataclass, or raises an error
that gives the dotted name of the wrong value.
"""

from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def from_json(kind: type[T], value: object, name: str = "") -> T:
    """Turn a JSON object into a dataclass. Objects inside it become dataclasses too.

    Args:
        kind: the dataclass. Its fields may be of JSON's types, literals, lists, tuples of one
            type, dicts with string keys, unions of these, or dataclasses.
        value: a JSON object with the names of the fields. A field with a default may be missing.
        name: the dotted name of the value, for errors.

    Raises:
        TypeError: a value has the wrong type, is missing, or is unknown.
    """
    if not isinstance(value, dict):
        raise TypeError(f"{name or kind.__name__} is no object")
    hints = _hints_of(kind)
    if unknown := [str(key) for key in value if key not in hints]:
        raise TypeError(f"{_inside(name, unknown[0])} is unknown")
    made: dict[str, object] = {}
    for key, hint in hints.items():
        if key in value:
            made[key] = _checked(hint, value[key], _inside(name, key))
        elif key in _required(kind):
            raise TypeError(f"{_inside(name, key)} is missing")
    return kind(**made)


@cache
def _hints_of(kind: type) -> dict[str, object]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


@cache
def _required(kind: type) -> frozenset[str]:
    return frozenset(
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    )


def _inside(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _checked(hint: object, value: object, name: str) -> object:
    """Return a value in the type of its hint, or raise TypeError."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is object:
        return value
    if origin in (Union, UnionType):
        return _of_union(inner, value, name)
    if origin is Literal:
        if not any(type(value) is type(one) and value == one for one in inner):
            raise TypeError(f"{name} is {value!r}")
        return value
    if origin in (list, tuple):
        return _of_list(origin is tuple, inner[0], value, name)
    if origin is dict:
        return _of_dict(inner[1], value, name)
    if isinstance(hint, type) and is_dataclass(hint):
        return from_json(cast(type[object], hint), value, name)
    kind = NoneType if hint is None else hint
    if type(value) is kind or (kind is float and type(value) is int):  # no bool for an int
        return value
    raise TypeError(f"{name} is a {type(value).__name__}")


def _of_union(kinds: tuple[object, ...], value: object, name: str) -> object:
    errors = []
    for kind in kinds:
        try:
            return _checked(kind, value, name)
        except TypeError as error:
            errors.append(error)
    # Raise the error whose name is longest: it is about the innermost value, so most of the value
    # fitted that type.
    raise max(errors, key=lambda error: len(str(error).partition(" ")[0]))


def _of_list(is_tuple: bool, kind: object, value: object, name: str) -> object:
    if not isinstance(value, list):
        raise TypeError(f"{name} is a {type(value).__name__}")
    made = [_checked(kind, one, f"{name}[{place}]") for place, one in enumerate(value)]
    return tuple(made) if is_tuple else made


def _of_dict(kind: object, value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} is a {type(value).__name__}")
    return {key: _checked(kind, one, _inside(name, key)) for key, one in value.items()}
