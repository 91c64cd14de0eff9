"""Check the files of ``--config``, and replace old field names by today's.

The parser's own errors for a mistake in a file are vague, or a traceback.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mobilellama.commandline.old_names import FOLLOWS, current_name
from mobilellama.commandline.peer_names import hint
from mobilellama.commandline.words import Command, parts_of
from mobilellama.config import ConfigError, did_you_mean
from mobilellama.files.presets import Layer
from mobilellama.files.yaml_file import line_of


@dataclass(kw_only=True)
class ConfigFile:
    """One file's fields."""

    path: Path
    """The file."""
    values: dict[str, object] = field(default_factory=dict)
    """The fields in the file: dotted name of today -> value."""
    spellings: dict[str, str] = field(default_factory=dict)
    """Dotted name of today -> the name in the file."""
    old_names: dict[str, str] = field(default_factory=dict)
    """Old names in the file -> today's names."""
    text: str | None = None
    """The text that the parser reads instead of the file. None: it reads the file."""

    def place_of(self, name: str) -> str:
        """Return where the file has a field, as ``mine.yaml, line 3``."""
        return _place(self.path, self.spellings[name])


def read_config_file(layer: Layer, command: Command) -> ConfigFile:
    """Read one file of fields.

    Raises:
        ConfigError: a name is not a field.
    """
    file = _Reader(layer.path, command).read(layer.values)
    file.text = file.text or layer.text
    return file


class _Reader:
    """Read a file's fields, and replace old names by today's."""

    def __init__(self, path: Path, command: Command) -> None:
        self._command, self._fields = command, command.fields
        self._file = ConfigFile(path=path)
        self._edits: dict[str, object] = {}  # today's name -> value, where name or value is changed

    def read(self, values: Mapping[object, object]) -> ConfigFile:
        """Return the fields of the file."""
        self._walk(values, "")
        if self._edits or self._file.old_names:
            self._file.text = _as_yaml(self._file.values)
        return self._file

    def _walk(self, values: Mapping[object, object], above: str) -> None:
        follows = FOLLOWS.get(self._command.verb, ())
        for key, value in values.items():
            said = f"{above}{key}"
            if said in follows:
                self._edits[said] = None  # left out
                continue
            name = self._name_of(said, value)
            if name in self._fields.sections:
                if not isinstance(value, Mapping):
                    rule = "is a section, and must hold 'field: value' lines"
                    raise self._error(said, value, rule)
                self._walk(value, f"{said}.")
            else:
                self._take(said, name, value)

    def _name_of(self, said: str, value: object) -> str:
        plain = said.replace("-", "_")
        known = {*self._fields.by_name, *self._fields.sections}
        name = plain if plain in known else current_name(plain, self._command.verb)
        if name not in known:
            near = hint(plain, known, start="") or did_you_mean(plain, known)
            raise self._error(said, value, "is not a field", near)
        return name

    def _take(self, said: str, name: str, value: object) -> None:
        if name in self._file.values:
            raise self._error(said, value, f"gives {name}, which the file gives already")
        if name != said.replace("-", "_"):
            self._file.old_names[said] = name
        its = self._fields.by_name[name]
        if its.is_list_of_texts and isinstance(value, str):
            value = parts_of(value, its)
            self._edits[name] = value
        if name != said:
            self._edits[name] = value
        self._file.values[name] = value
        self._file.spellings[name] = said

    def _error(self, said: str, value: object, rule: str, near: str = "") -> ConfigError:
        remedy = f"See '{self._command.prog} --help all'{near}"
        return ConfigError(said, value, f"{rule} (in {_place(self._file.path, said)})", remedy)


def _place(path: Path, name: str) -> str:
    """Return the place of a field in a file, which writes it by this name."""
    line = line_of(path, name)
    return f"{path}, line {line}" if line else str(path)


def _as_yaml(leaves: Mapping[str, object]) -> str:
    """Return the text of a YAML file with these fields, given by dotted name."""
    import yaml

    nested: dict[str, object] = {}
    for name, value in leaves.items():
        *sections, last = name.split(".")
        place = nested
        for section in sections:
            below = place.setdefault(section, {})
            assert isinstance(below, dict)  # a field is no section
            place = below
        place[last] = value
    return yaml.safe_dump(nested, sort_keys=False)
