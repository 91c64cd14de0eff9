"""Presets, and config files that build on others.

A preset is a YAML file in a command's folder of presets. The sub-folder ``bases`` has parts that
several presets share. A part is not a whole recipe, so lists of presets do not show it.

    builds_on: mobilevlm_v2_3b_instruct   # a preset of the same verb, or a file: mine.yaml
    train:
      micro_batch_size: 8

A file and its bases are a list of layers, the lowest first. A later layer replaces fields of an
earlier one, as a later ``--config`` does. ``builds_on`` may also be a list.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mobilellama.config import ConfigError, did_you_mean, one_line
from mobilellama.files.yaml_file import read_yaml

BASE = "builds_on"
"""The key. No verb has a field of this name."""

_FILE_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One config file of a list of layers."""

    path: Path
    """The file."""
    values: Mapping[object, object]
    """Its fields, without ``builds_on``."""
    text: str | None
    """Its YAML text without ``builds_on``. None if the file has no ``builds_on``."""


def preset_names(presets: Path | None) -> list[str]:
    """Return the names of the presets in a folder, sorted."""
    return sorted(path.stem for path in presets.glob("*.yaml")) if presets else []


def find_preset(name: str, presets: Path | None, field: str) -> Path:
    """Return the file that `name` means: an existing path, else a preset of the folder.

    Args:
        name: of the user.
        presets: the folder of the presets; None if there are none.
        field: the field with the name, for errors.

    Raises:
        ConfigError: it is neither a file nor a preset.
    """
    if Path(name).is_file():
        return Path(name)
    if presets is None:
        raise ConfigError(field, name, "is not a file", "Give the path of a YAML file")
    if (preset := presets / f"{name}.yaml").is_file():
        return preset
    raise ConfigError(
        field,
        name,
        f"is neither a file nor a preset ({', '.join(preset_names(presets))})",
        f"Give a YAML file or a preset's name{did_you_mean(name, preset_names(presets))}",
    )


def read_layers(path: Path, presets: Path | None) -> list[Layer]:
    """Return a config file and its bases, the lowest first, each file once.

    Args:
        path: the file.
        presets: the folder of the presets that ``builds_on`` may name; None if there are none.

    Raises:
        ConfigError: a file is not a YAML mapping, a base is unknown, or a file builds on itself.
    """
    layers: dict[Path, Layer] = {}
    _add(layers, path, presets, [])
    return list(layers.values())


def _add(layers: dict[Path, Layer], path: Path, presets: Path | None, above: list[Path]) -> None:
    key = path.resolve()
    if key in layers:
        return  # it stays below all files that build on it
    values = _read_mapping(path)
    has_base = BASE in values
    names = values.pop(BASE, [])
    for name in _names(names, path):
        base = _find_base(name, path, presets)
        chain = [*above, key]
        if base.resolve() in chain:
            circle = [*chain[chain.index(base.resolve()) :], base]
            places = " -> ".join(one.name for one in circle)
            rule = f"builds on itself: {places} (in {path})"
            raise ConfigError(BASE, name, rule, "Remove one of these bases")
        _add(layers, base, presets, chain)
    text = _without_base(path) if has_base else None
    layers[key] = Layer(path=path, values=values, text=text)


def _read_mapping(path: Path) -> dict[object, object]:
    try:
        value = read_yaml(path)
    except ValueError as error:
        rule = f"is not YAML ({one_line(error)})"
        raise ConfigError("--config", str(path), rule, "Fix the file") from None
    if not isinstance(value, dict):
        raise ConfigError("--config", str(path), "must hold 'field: value' lines", "Fix the file")
    return value


def _names(value: object, path: Path) -> list[str]:
    given: list[object] = value if isinstance(value, list) else [value]
    names = [name for name in given if isinstance(name, str) and name]
    if len(names) < len(given):
        rule = f"must be the name of a preset or of a file, or a list of such names (in {path})"
        raise ConfigError(BASE, value, rule, f"Write e.g. '{BASE}: mine.yaml'")
    return names


def _find_base(name: str, path: Path, presets: Path | None) -> Path:
    """Return the file of a base: a path relative to the file that names it, or a preset."""
    if name.endswith(_FILE_ENDINGS):
        if (file := path.parent / name).is_file():
            return file
        rule = f"is not a file (in {path})"
        remedy = f"Give a path relative to {path.parent}, or the name of a preset"
        raise ConfigError(BASE, name, rule, remedy)
    if presets and (file := presets / f"{name}.yaml").is_file():
        return file
    names = preset_names(presets)
    if names:
        rule = f"is not a preset ({', '.join(names)}) (in {path})"
    else:
        rule = f"is not a file, and this command has no presets (in {path})"
    remedy = f"Give the name of a preset, or of a file that ends in {_FILE_ENDINGS[0]}"
    raise ConfigError(BASE, name, rule, remedy + did_you_mean(name, names))


def _without_base(path: Path) -> str:
    """Return a file's YAML text without its base. Each value keeps its spelling.

    Values are not parsed and written again: the command line reads '1e-3' as a number, but YAML
    reads it as text.
    """
    import yaml

    node = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)
    node.value = [pair for pair in node.value if pair[0].value != BASE]
    return yaml.serialize(node, Dumper=yaml.SafeDumper, allow_unicode=True)
