"""Reading a YAML file that a user gives, hostile ones included.

Aliases may make a small file as large as memory, and deep nesting or long numbers end a parser
with an error that names nothing: these are refused before anything is made of them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellama.config import one_line

if TYPE_CHECKING:
    import yaml

_MOST_VALUES = 1_000_000  # with each alias written out
_MOST_LEVELS = 50
_TOO_DEEP = f"it is nested more than {_MOST_LEVELS} levels deep"
_LONGEST_NUMBER = 1_000  # characters; Python itself makes no integer of more than 4,300 digits


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        ValueError: it is no YAML, or refused; the message has one line and does not name the file.
        OSError: it cannot be read.
    """
    import yaml

    text = path.read_text(encoding="utf-8")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, 1)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except yaml.YAMLError as error:
        raise ValueError(one_line(error)) from None
    try:
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(one_line(error)) from None
    except Exception as error:  # "!!int ''" is an IndexError of the parser's, and so on
        raise ValueError(f"it holds a value that is not of its kind ({one_line(error)})") from None


def _count(node: "yaml.Node", known: "dict[yaml.Node, int | None]", level: int) -> int:
    """Return the number of values below a node, aliases written out.

    Args:
        node: where to begin.
        known: numbers of nodes that were counted; None while one is being counted.
        level: how deep the node is.

    Raises:
        ValueError: there are too many, or a number is too long.
    """
    import yaml

    if node in known:
        if (number := known[node]) is None:
            raise ValueError(f"line {node.start_mark.line + 1}: an alias lies inside itself")
        return number
    if level > _MOST_LEVELS:
        raise ValueError(_TOO_DEEP)
    known[node] = None
    below: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        below = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    elif node.tag.endswith((":int", ":float")) and len(node.value) > _LONGEST_NUMBER:
        line = node.start_mark.line + 1
        raise ValueError(f"line {line}: it holds a number of {len(node.value):,} characters")
    number = 1 + sum(_count(part, known, level + 1) for part in below)
    if number > _MOST_VALUES:
        raise ValueError(f"its aliases stand for more than {_MOST_VALUES:,} values")
    known[node] = number
    return number
