"""Resolve names on the Hub once for a run, so that all ranks and starts take the same commits.

1. Rank 0 opens what the run starts from. For a name on the Hub it asks which commit that is, and
   downloads the files.
2. The other ranks wait and take the commit from rank 0. The first rank of each node downloads what
   is not in its cache; the others then read the cache.
3. The file of each attempt has the names with their commits. Until the run has a checkpoint, the
   next attempt takes the commits from there, although the branch may have moved.
"""

import json
import logging
from collections.abc import Callable, Sequence
from typing import TypedDict, TypeVar

from mobilellama.distributed import Ranks
from mobilellama.files.hub_folder import (
    FindModel,
    ModelFolder,
    find_model,
    has_form_of_name,
    may_be_on_hub,
)
from mobilellama.run_folder import RunFolder

log = logging.getLogger(__name__)

T = TypeVar("T")

HUB = "hub"
"""The key of an attempt's file: name on the Hub, as it was given -> NAME@COMMIT."""


class _Taken(TypedDict):
    """What one name was resolved to."""

    field: str
    name: str
    """NAME@COMMIT."""
    weights: bool
    """Whether the weights were needed, or the small files alone."""


def open_on_all(
    ranks: Ranks,
    run: RunFolder,
    values: Sequence[str | None],
    open_with: Callable[[FindModel], T],
) -> tuple[T, dict[str, str]]:
    """Open what a run starts from on every rank, with the same commits of the Hub.

    Args:
        ranks: of the run. All call this together.
        run: its folder; earlier attempts say which commits they took.
        values: of the fields that may name a model on the Hub.
        open_with: opens what the run starts from. It calls its argument for each model.

    Returns:
        what was opened, and the names on the Hub with their commits, for the attempt's file.

    Raises:
        ConfigError, DataError: on rank 0, as `open_with` raises them.
        OtherRankError: on the other ranks, if rank 0 or the first rank of a node failed.
    """
    # By the characters alone, so that all ranks decide alike.
    if not any(value is not None and has_form_of_name(value) for value in values):
        return open_with(find_model), {}
    opened: list[T] = []
    first = _Asking(run)

    def open_first() -> str:
        if any(value is not None and may_be_on_hub(value) for value in values):
            opened.append(open_with(first))
        return json.dumps(first.taken)

    taken: dict[str, _Taken] = json.loads(ranks.from_main(open_first))
    names = {value: its["name"] for value, its in taken.items()}
    if taken:
        ranks.run_on_each_node(
            lambda: None if opened else _download(taken),
            otherwise="another rank cannot download what the run starts from; see its message",
        )
    return (opened[0] if opened else open_with(_TakenByMain(taken))), names


class _Asking:
    """Finds models for rank 0, and notes the commits."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self.taken: dict[str, _Taken] = {}

    def __call__(self, value: str, *, field: str, weights: bool = True) -> ModelFolder:
        if not may_be_on_hub(value):
            return find_model(value, field=field, weights=weights)
        before = commits_of(self._run).get(value)
        if before is not None:
            log.info(
                "%s = %s: the run began with %s, and goes on with it. For another commit, give "
                "OWNER/NAME@REVISION or another run.folder",
                field, value, before,
            )  # fmt: skip
        commit = before and before.rpartition("@")[2]
        found = find_model(value, field=field, weights=weights, commit=commit)
        known = self.taken.get(value)
        whole = weights or (known is not None and known["weights"])
        self.taken[value] = _Taken(field=field, name=found.name, weights=whole)
        return found


class _TakenByMain:
    """Finds models for the other ranks: what rank 0 did not find on the Hub is a path."""

    def __init__(self, taken: dict[str, _Taken]) -> None:
        self._taken = taken

    def __call__(self, value: str, *, field: str, weights: bool = True) -> ModelFolder:
        if (its := self._taken.get(value)) is None:
            return ModelFolder(path=value, name=value)
        commit = its["name"].rpartition("@")[2]
        return find_model(value, field=field, weights=weights, commit=commit, is_downloaded=True)


def commits_of(run: RunFolder) -> dict[str, str]:
    """Return the names on the Hub that the run's attempts took, with their commits."""
    names: dict[str, str] = {}
    for number in run.attempt_numbers():
        names |= run.read_attempt(number).get(HUB, {})
    return names


def _download(taken: dict[str, _Taken]) -> None:
    """Download the commits that rank 0 took, into this node's cache."""
    for value, its in taken.items():
        commit = its["name"].rpartition("@")[2]
        find_model(value, field=its["field"], weights=its["weights"], commit=commit)
