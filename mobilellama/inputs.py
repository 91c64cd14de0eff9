"""The paths that a command reads: each stage names its own, and they are looked at without torch.

A stage's ``main.py`` has a table ``INPUTS``: for each verb that can be launched, the fields that
name what must be there before it starts. ``mobilellama launch`` looks at these before it submits a
job, which may wait for days in a queue.
"""

import importlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mobilellama.config import ConfigError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_OF_FILES = (".json", ".jsonl", ".parquet", ".zst", ".gz", ".yaml", ".yml", ".model")
_NODES_ONLY = "If only the nodes see it, give --no-check"


@dataclass(frozen=True, kw_only=True)
class InputPath:
    """A field of a command that names a file or a folder which the command reads."""

    field: str
    """The dotted field."""
    kind: Literal["file", "folder", "path"]
    """What must be there; path is either."""
    remedy: str
    """What to give."""
    holds: str | None = None
    """A file that the folder must hold."""
    name: Literal["hub", "preset"] | None = None
    """What the field takes instead of a path: a name on the Hugging Face Hub, or a preset's."""
    unless: str | None = None
    """Another field: where it is given, this one is not read."""
    only_at_first: bool = False
    """Whether a run that has a checkpoint does not read it any more."""

    def require(self, value: str) -> None:
        """Raise ConfigError unless what a value names is there.

        Args:
            value: the field's; a relative path begins at the current folder.
        """
        if self.name and _may_be_name(value, self.name):
            return
        path = Path(value)
        if not path.exists():
            rule = "does not exist" if not path.is_symlink() else "is a link to nothing"
        elif self.kind == "file" and not path.is_file():
            rule = "is not a file"
        elif self.kind == "folder" and not path.is_dir():
            rule = "is not a folder"
        elif self.holds and not (path / self.holds).is_file():
            rule = f"holds no {self.holds}"
        else:
            return
        raise ConfigError(self.field, value, rule, f"{self.remedy}. {_NODES_ONLY}")


TEMPLATE = InputPath(
    field="template",
    kind="file",
    remedy="Give a template's YAML file or the name of a preset",
    name="preset",
)
"""A chat template, which several stages read."""


def _may_be_name(value: str, kind: Literal["hub", "preset"]) -> bool:
    """Return whether a value may name what is not on this disk."""
    if value.endswith(_OF_FILES):
        return False
    if kind == "preset":
        return "/" not in value
    return _HUB_NAME.fullmatch(value) is not None


def input_paths(stage: str, verb: str) -> Sequence[InputPath]:
    """Return what a stage's verb reads, as the stage's ``main.py`` names it."""
    return importlib.import_module(f"mobilellama.{stage}.main").INPUTS[verb]


def require_inputs(
    inputs: Iterable[InputPath],
    given: Callable[[str], Any],
    *,
    resumes: bool = False,
    made: Iterable[Path] = (),
) -> None:
    """Raise ConfigError for the first input that is not there.

    Args:
        inputs: what the command reads.
        given: returns the value that a field is given, or None.
        resumes: whether the run has a checkpoint that it goes on from.
        made: absolute paths that other commands will have made; what lies there is not looked at.
    """
    later = [Path(os.path.realpath(path)) for path in made]
    for one in inputs:
        value = given(one.field)
        if not isinstance(value, str) or value in ("", "null"):
            continue  # a field that is required is told by the stage's own parser
        if (one.only_at_first and resumes) or (one.unless and given(one.unless) is not None):
            continue
        if any(Path(os.path.realpath(value)).is_relative_to(path) for path in later):
            continue
        one.require(value)
