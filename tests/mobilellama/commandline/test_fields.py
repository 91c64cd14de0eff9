"""The fields of a config by their dotted names, and what kind each is."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from mobilellama.commandline.fields import fields_of


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A section."""

    path: str
    """Required."""
    deep: bool | None = None
    """A flag."""


@dataclass(frozen=True, kw_only=True)
class _Whole:
    """A config with every kind of field."""

    part: _Part
    """A section."""
    kind: Literal["a", "b"] = "a"
    """A choice."""
    names: list[str] | None = None
    """Words."""
    counts: list[int] = field(default_factory=list)
    """Numbers."""
    paths: list[str] = field(default_factory=list, metadata={"commas": False})
    """Words in which a comma is a letter."""
    env: dict[str, str] = field(default_factory=dict)
    """Names of the user's own."""


FIELDS = fields_of(_Whole)


def test_a_section_gives_its_fields_under_its_name_and_is_none_itself() -> None:
    names = ["part.path", "part.deep", "kind", "names", "counts", "paths", "env"]
    assert list(FIELDS.by_name) == names
    assert FIELDS.sections == {"part"}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("is_required", ["part.path"]),
        ("is_flag", ["part.deep"]),
        ("is_list", ["names", "counts", "paths"]),
        ("is_list_of_texts", ["names", "paths"]),
        ("is_mapping", ["env"]),
    ],
)
def test_the_kind_of_a_field_follows_from_its_type_and_default(kind: str, names: list[str]) -> None:
    assert [name for name, its in FIELDS.by_name.items() if getattr(its, kind)] == names


def test_commas_part_a_list_unless_the_field_says_otherwise() -> None:
    assert FIELDS.by_name["names"].commas and not FIELDS.by_name["paths"].commas


@pytest.mark.parametrize(
    ("name", "expected"),
    [("env.HOME", "env"), ("env.a.b", "env"), ("env", None), ("names.0", None), ("part.x", None)],
)
def test_a_name_below_a_mapping_is_a_key_of_it(name: str, expected: str | None) -> None:
    found = FIELDS.mapping_of(name)
    assert (found.name if found else None) == expected
