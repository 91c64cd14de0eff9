"""The only list of old field names and their names of today.

An old name works as a flag, in a YAML file, and in the stored config of a run. For flags and YAML
files, each command prints one warning.

Files that this project writes (manifests, records of attempts) keep the old names, so that older
readers still work. Names are changed when a file is read and when it is written.
"""

import sys
from collections.abc import Mapping

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
"""'STAGE VERB' -> old name -> name, for old names that mean something else in other verbs."""

FOLLOWS = {"sft run": ("model",), "vlm run": ("model", "origin")}
"""'STAGE VERB' -> names in a run's config.yaml that are not fields. --init decides their values."""


def current_name(name: str, verb: str) -> str:
    """Return today's name of a field.

    Args:
        name: the dotted name, old or today's.
        verb: stage and verb, such as ``pretrain run``.
    """
    table = EVERYWHERE | OF_VERB.get(verb, {})
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if new := table.get(".".join(parts[:end])):
            return ".".join([new, *parts[end:]])
    return name


def warn_of(used: Mapping[str, str]) -> None:
    """Print one warning, on rank 0, with the old names in a command.

    Args:
        used: old name -> today's name, both as the user writes them.
    """
    if used and rank_from_environment() == 0:
        said = "; ".join(f"{old} is now {new}" for old, new in used.items())
        print(f"mobilellama: warning: old names, which still work: {said}", file=sys.stderr)


def as_current(stored: Mapping[str, object]) -> dict[str, object]:
    """Return a stored config with today's names."""
    return _renamed(stored, EVERYWHERE)


def as_stored(config: Mapping[str, object]) -> dict[str, object]:
    """Return a config with the names that files use."""
    return _renamed(config, {new: old for old, new in EVERYWHERE.items()})


def _renamed(
    values: Mapping[str, object], names: Mapping[str, str], above: str = ""
) -> dict[str, object]:
    """Return nested values under their new names, in the same order."""
    made: dict[str, object] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            value = _renamed(value, names, f"{name}.")
        # A key that is not renamed may hold dots: configs of other projects are stored, too.
        made[names[name].rpartition(".")[2] if name in names else key] = value
    return made
