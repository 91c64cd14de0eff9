"""Read a user's YAML file safely.

Aliases can make a small file fill the memory. Deep nesting or long numbers end a parser with an
error that names nothing. Of a key that is there twice, PyYAML takes the last value without a word.
Such files are refused before any value is built.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellama.config import one_line

if TYPE_CHECKING:
    import yaml

_MOST_VALUES = 1_000_000  # aliases expanded
_MOST_LEVELS = 50
_TOO_DEEP = f"it is nested more than {_MOST_LEVELS} levels deep"
_LONGEST_NUMBER = 1_000  # characters; Python itself makes no integer of more than 4,300 digits


def read_yaml(path: Path) -> Any:
    """Return the value of a YAML file.

    Raises:
        ValueError: it is not YAML, or is refused. The message is one line without the file's name.
        OSError: it cannot be read.
    """
    return read_yaml_text(path.read_text(encoding="utf-8"))


def read_yaml_text(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ValueError: it is not YAML, or is refused. The message is one line.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, 1)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except yaml.YAMLError as error:
        raise ValueError(_without_source(error)) from None
    try:
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(_without_source(error)) from None
    except Exception as error:  # the parser raises an IndexError for "!!int ''", for example
        raise ValueError(
            f"it holds a value that does not fit its tag ({one_line(error)})"
        ) from None


def line_of(path: Path, name: str) -> int | None:
    """Return the line of a field in a YAML file. None if the file does not write it by this name.

    Args:
        path: a file that was read before.
        name: the dotted name of the field, as the file writes it.
    """
    import yaml

    return _line_in(yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader), name)


def _line_in(node: "yaml.Node | None", name: str) -> int | None:
    import yaml

    for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
        if key.value == name:
            return key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and name.startswith(f"{key.value}."):
            if line := _line_in(value, name.removeprefix(f"{key.value}.")):
                return line
    return None


def _without_source(error: Exception) -> str:
    """Return the parser's message without its name for a text that is not a file."""
    return one_line(error).replace(' in "<unicode string>", line', " at line")


def _count(node: "yaml.Node", known: "dict[yaml.Node, int | None]", level: int) -> int:
    """Return the number of values below a node, with aliases expanded.

    Args:
        node: the node.
        known: counts of other nodes; None while a node is being counted.
        level: depth of the node.

    Raises:
        ValueError: there are too many values, a number is too long, or a key is there twice.
    """
    import yaml

    if node in known:
        if (number := known[node]) is None:
            raise ValueError(f"line {node.start_mark.line + 1}: an alias contains itself")
        return number
    if level > _MOST_LEVELS:
        raise ValueError(_TOO_DEEP)
    known[node] = None
    below: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _require_single_keys(node)
        below = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    elif node.tag.endswith((":int", ":float")) and len(node.value) > _LONGEST_NUMBER:
        line = node.start_mark.line + 1
        raise ValueError(f"line {line}: it holds a number of {len(node.value):,} characters")
    number = 1 + sum(_count(part, known, level + 1) for part in below)
    if number > _MOST_VALUES:
        raise ValueError(f"it has more than {_MOST_VALUES:,} values with its aliases expanded")
    known[node] = number
    return number


def _require_single_keys(node: "yaml.MappingNode") -> None:
    """Raise ValueError if a mapping has a key twice.

    The merge key "<<" may be there twice: PyYAML takes the fields of both.
    """
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        name = (key.tag, key.value)
        if not isinstance(key.value, str) or key.tag.endswith(":merge"):
            continue
        line = key.start_mark.line + 1
        if name in lines:
            raise ValueError(
                f"it has the key '{key.value}' twice, on line {lines[name]} and on line {line}; "
                "remove one of them"
            )
        lines[name] = line
