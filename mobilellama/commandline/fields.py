"""List the fields of a config by dotted name. A command line or a YAML file may give them.

A section is a field whose type is a dataclass. ``train.seq_len`` is the field ``seq_len`` of the
section ``train``.
"""

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a config."""

    name: str
    """The dotted name."""
    type: object
    """The type that the dataclass declares."""
    is_required: bool
    """Whether it has no default."""
    commas: bool
    """Whether commas separate the elements of a list. False for shell lines and for paths."""

    @property
    def is_flag(self) -> bool:
        """Whether the field is true or false. Its name without a value means true."""
        return set(members_of(self.type)) <= {bool, type(None)}

    @property
    def is_list(self) -> bool:
        """Whether it holds a list."""
        return any(get_origin(one) is list for one in members_of(self.type))

    @property
    def is_list_of_texts(self) -> bool:
        """Whether it holds a list of texts. A command line gives them as words."""
        return list[str] in members_of(self.type)

    @property
    def is_mapping(self) -> bool:
        """Whether it holds names that the user chooses."""
        return any(get_origin(one) in (dict, Mapping) for one in members_of(self.type))


@dataclass(frozen=True, kw_only=True)
class Fields:
    """All fields of a config, and its sections."""

    by_name: dict[str, Field]
    """Dotted name -> field, in the order of the dataclass."""
    sections: frozenset[str]
    """Dotted names of the sections."""

    def mapping_of(self, name: str) -> Field | None:
        """Return the mapping that holds the key `name`. ``slurm.env`` holds ``slurm.env.HOME``."""
        parts = name.split(".")
        for end in range(1, len(parts)):
            field = self.by_name.get(".".join(parts[:end]))
            if field is not None and field.is_mapping:
                return field
        return None


def members_of(of_type: object) -> tuple[object, ...]:
    """Return the types of a union. For any other type, return that type alone."""
    is_union = get_origin(of_type) in (Union, types.UnionType)
    return get_args(of_type) if is_union else (of_type,)


def fields_of(config_class: type) -> Fields:
    """Return the fields of a config dataclass and of its sections."""
    found: dict[str, Field] = {}
    sections: set[str] = set()

    def walk(owner: type, above: str) -> None:
        hints = get_type_hints(owner)
        for its in fields(owner):
            name, of_type = f"{above}{its.name}", hints[its.name]
            if is_dataclass(of_type) and isinstance(of_type, type):
                sections.add(name)
                walk(of_type, f"{name}.")
                continue
            found[name] = Field(
                name=name,
                type=of_type,
                is_required=its.default is MISSING and its.default_factory is MISSING,
                commas=its.metadata.get("commas", True),
            )

    walk(config_class, "")
    return Fields(by_name=found, sections=frozenset(sections))
