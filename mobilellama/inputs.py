"""Check that the paths exist that a command reads, without torch.

A stage's ``main.py`` has a table ``INPUTS``. For each verb that can be launched, it lists the
fields whose files must exist before the start. ``mobilellama launch`` checks them before it submits
a job, because the job may wait in the queue for days.
"""

import importlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mobilellama.config import ConfigError
from mobilellama.files.hub_folder import may_be_on_hub

log = logging.getLogger(__name__)

_NODES_ONLY = "If only the nodes see it, give --no-check"


@dataclass(frozen=True, kw_only=True)
class InputPath:
    """A field that names a file or a folder which the command reads."""

    field: str
    """The dotted field."""
    kind: Literal["file", "folder", "path"]
    """What must exist. path: a file or a folder."""
    remedy: str
    """What the user should give."""
    holds: str | None = None
    """A file that must be in the folder."""
    name: Literal["hub", "owned", "preset"] | None = None
    """What the field takes instead of a path: a name on the Hugging Face Hub (owned: with its
    owner alone, OWNER/NAME), or a preset's."""
    url: bool = False
    """Whether the field also takes a URL, such as s3://BUCKET/FOLDER, which is not looked at."""
    unless: str | None = None
    """Another field. If it is given, this one is not read."""
    only_at_first: bool = False
    """Whether a run that has a checkpoint does not read it any more."""

    def require(self, value: str, made: Collection[Path] = ()) -> None:
        """Raise ConfigError unless what a value names is there.

        Args:
            value: of the field. A relative path begins at the current folder.
            made: absolute paths that commands will make. A value whose first part will be a folder
                by then is a path, because the command will read it as one.
        """
        if self.name and _may_be_name(value, self.name) and not _begins_with_folder(value, made):
            if self.name != "preset":
                log.info(
                    "%s = %s: no such folder here; read as a name on the Hub", self.field, value
                )
            return
        if self.url and "://" in value:
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


CHECKPOINT = InputPath(
    field="checkpoint",
    kind="folder",
    remedy="Give the folder of a run, or of one of its checkpoints",
)
"""What an export is made of."""
INIT = InputPath(
    field="init",
    kind="folder",
    remedy="Give a Hugging Face folder, a name on the Hub, or a run's folder or checkpoint",
    only_at_first=True,
    name="owned",
)
"""The weights that a run begins with."""
TEMPLATE = InputPath(
    field="template",
    kind="file",
    remedy="Give a template's YAML file or the name of a preset",
    name="preset",
)
"""A chat template."""


def token_dataset(made_by: str) -> InputPath:
    """Return the dataset that a run reads, which a command such as 'sft prepare' makes."""
    return InputPath(
        field="data.path",
        kind="folder",
        holds="dataset.json",
        remedy=f"Give a dataset folder: the --output of 'mobilellama {made_by}', finished",
    )


def _may_be_name(value: str, kind: Literal["hub", "owned", "preset"]) -> bool:
    """Return whether a value may be a name instead of a path."""
    if kind == "preset":
        return "/" not in value and not value.endswith((".yaml", ".yml", ".json"))
    return may_be_on_hub(value, owned=kind == "owned")


def _begins_with_folder(value: str, made: Collection[Path]) -> bool:
    """Return whether the first part of FIRST/NAME will be a folder when `made` is made."""
    first, slash, _ = value.partition("/")
    folder = Path(os.path.realpath(first))
    return bool(slash) and any(Path(os.path.realpath(one)).is_relative_to(folder) for one in made)


def input_paths(stage: str, verb: str) -> Sequence[InputPath]:
    """Return the input paths of a stage's verb, from the stage's ``main.py``."""
    return importlib.import_module(f"mobilellama.{stage}.main").INPUTS[verb]


def require_inputs(
    inputs: Iterable[InputPath],
    given: Callable[[str], Any],
    *,
    resumes: bool = False,
    made: Iterable[Path] = (),
    outputs: Collection[Path] = (),
) -> None:
    """Raise ConfigError for the first input that does not exist.

    Args:
        inputs: the paths that the command reads.
        given: returns the value of a field, or None if it is not given.
        resumes: whether the run resumes from a checkpoint.
        made: absolute paths that earlier commands will make. Inputs below them are not checked.
        outputs: absolute paths of all that this command and those beside it make.
    """
    later = [Path(os.path.realpath(path)) for path in made]
    for one in inputs:
        value = given(one.field)
        if not isinstance(value, str) or value in ("", "null"):
            continue  # the stage's own parser reports a required field that is missing
        if (one.only_at_first and resumes) or (one.unless and given(one.unless) is not None):
            continue
        if any(Path(os.path.realpath(value)).is_relative_to(path) for path in later):
            continue
        one.require(value, [*later, *outputs])
