"""Names that fields had once, and have now: the only list of them.

An old name is understood where a field's name is: as a flag, in a YAML file, and in the stored
config of a run. Flags and YAML files are warned of, once a command.

Files that we write keep the old names (a manifest, the record of an attempt), so that programs
that read them go on: what is stored is renamed when it is read and when it is written.
"""

import sys
from collections.abc import Mapping
from typing import Any

from mobilellama.log import rank_from_environment

EVERYWHERE = {
    "launch": "distributed",
    "schedule.warmup_share": "schedule.warmup_ratio",
    "schedule.min_lr_share": "schedule.min_lr_ratio",
}
"""Old name -> name of a field or section, for every verb that has a field of the new name."""

OF_VERB: dict[str, dict[str, str]] = {
    "shards info": {"path": "dataset"},
    "shards verify": {"path": "dataset"},
    "shards show": {"path": "dataset"},
    "shards plot": {"path": "dataset"},
    "vlm check-data": {"data.images": "images"},
    "vlm evaluate": {"benchmark": "tasks"},
}
"""'STAGE VERB' -> old name -> name, where the old name means something else elsewhere."""

FOLLOWS = {"sft run": ("model",), "vlm run": ("model", "origin")}
"""'STAGE VERB' -> what a run's config.yaml holds that is no field: it follows from --init."""


def current_name(name: str, verb: str) -> str:
    """Return a field's name of today.

    Args:
        name: dotted, of today or old.
        verb: as ``pretrain run``.
    """
    table = EVERYWHERE | OF_VERB.get(verb, {})
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if new := table.get(".".join(parts[:end])):
            return ".".join([new, *parts[end:]])
    return name


def warn_of(used: Mapping[str, str]) -> None:
    """Say once, on rank 0, which old names a command was given.

    Args:
        used: old name -> how it is given today, both as the user writes them.
    """
    if used and rank_from_environment() == 0:
        said = "; ".join(f"{old} is now {new}" for old, new in used.items())
        print(f"mobilellama: warning: old names, which still work: {said}", file=sys.stderr)


def as_current(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored config with the names of today."""
    return _renamed(stored, EVERYWHERE)


def as_stored(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the names under which files hold it."""
    return _renamed(config, {new: old for old, new in EVERYWHERE.items()})


def _renamed(
    values: Mapping[str, Any], names: Mapping[str, str], above: str = ""
) -> dict[str, Any]:
    """Return nested values with other names, in their order."""
    made: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            value = _renamed(value, names, f"{name}.")
        # A key that is not renamed may hold dots: configs of other projects are stored, too.
        made[names[name].rpartition(".")[2] if name in names else key] = value
    return made
