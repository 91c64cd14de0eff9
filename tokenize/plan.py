"""Make the output folder's plan, or join the one that is there.

Whoever comes first writes plan.json, atomically and never over another's; everyone else's
plan must agree with it, or the difference is named.
"""

import contextlib
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from mobilellama.config import ConfigError
from mobilellama.files.temporary import temporary_path
from mobilellama.shards.dataset import PLAN, Plan, Slice, tokenizer_file
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.hub_dataset import HUB_URL, name_and_revision, url_and_path
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

log = logging.getLogger(__name__)


def join_plan(folder: Path, plan: Plan, tokenizer: TextTokenizer) -> None:
    """Write the plan and the tokenizer into `folder`, or check that its plan is this one.

    Raises:
        ConfigError: the folder holds something else, or was begun with another plan.
    """
    _require_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PLAN).exists():
        _write_first(folder, plan)
    _require_same(folder, Plan.read(folder), plan, tokenizer)
    if not tokenizer_file(folder).exists():
        tokenizer.save(folder)


def _require_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        rule, remedy = "is not a folder", "Give a new or empty folder"
        raise ConfigError("output", str(folder), rule, remedy)
    if not folder.exists() or (folder / PLAN).exists():
        return
    # Another worker's plan may be on its way.
    strangers = [name for name in sorted(os.listdir(folder)) if not name.startswith(PLAN)]
    if strangers and not (folder / PLAN).exists():
        rule = f"holds files ({strangers[0]}, ...) but no {PLAN}"
        raise ConfigError("output", str(folder), rule, "Give a new or empty folder")


def as_begun(folder: Path, sources: SourcesConfig) -> SourcesConfig:
    """Return the sources by which a dataset on the Hub was begun in an output folder.

    A commit that comes later changes nothing: the plan's is taken. So is its way to read, which
    was by rows of what ``datasets`` downloads in versions before.
    """
    if not sources.is_hub_name or not (folder / PLAN).is_file():
        return sources
    source = Plan.read(folder).slices[0].source
    assert sources.dataset is not None
    name, revision = name_and_revision(sources.dataset)
    if source.startswith((f"{name}:", f"{name}/{sources.name}:")):
        return replace(sources, download=True)
    there = url_and_path(source)
    if there is None or revision is not None:
        return sources
    begun = there[0].removeprefix(HUB_URL)
    if begun.partition("@")[0] != name:
        return sources
    log.info("%s: the plan in %s has commit %s", name, folder, begun.partition("@")[2])
    return replace(sources, dataset=begun)


def _write_first(folder: Path, plan: Plan) -> None:
    """Put plan.json into place unless another worker's is there by then."""
    private = temporary_path(folder / PLAN)
    try:
        plan.write(folder, private.name)
        try:
            os.link(private, folder / PLAN)  # unlike a rename, fails if it exists
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            if not (folder / PLAN).exists():
                os.replace(private, folder / PLAN)
    except OSError as error:
        error.filename = str(folder / PLAN)  # not the temporary's
        raise
    finally:
        with contextlib.suppress(OSError):  # of a read-only folder, where there is none
            private.unlink(missing_ok=True)


def _require_same(folder: Path, theirs: Plan, mine: Plan, tokenizer: TextTokenizer) -> None:
    tokenizer.require_sha256(
        theirs.identity.tokenizer_sha256, field="tokenizer", owner=f"the plan in {folder}"
    )
    theirs.identity.require_same(mine.identity, owner=f"the plan in {folder}")
    if theirs.slices == mine.slices:
        return
    _require_same_commit(folder, theirs, mine)
    by_place = {_place(slice_): slice_ for slice_ in theirs.slices}
    for slice_ in mine.slices:
        planned = by_place.pop(_place(slice_), None)
        if planned is None:
            _refuse(folder, slice_, "is not in the plan")
        if planned != slice_:
            size = f"{planned.size:,} {planned.unit} in the plan, {slice_.size:,} now"
            number = f"bucket {planned.bucket} in the plan, {slice_.bucket} now"
            _refuse(folder, slice_, size if planned.size != slice_.size else number)
    _refuse(folder, next(iter(by_place.values())), "is in the plan, but gone")


def _require_same_commit(folder: Path, theirs: Plan, mine: Plan) -> None:
    """Raise ConfigError if the slices are of two commits of a dataset on the Hub."""
    begun, now = (url_and_path(plan.slices[0].source) for plan in (theirs, mine))
    if begun is None or now is None or begun[0] == now[0]:
        return
    planned, given = (url.removeprefix(HUB_URL) for url, _ in (begun, now))
    if planned.partition("@")[0] == given.partition("@")[0]:
        rule = f"is another commit than the plan's ({folder / PLAN})"
        remedy = f"Give --sources.dataset {planned}, or use another output folder"
        raise ConfigError("sources.dataset", given, rule, remedy)


def _place(slice_: Slice) -> tuple[str, str, int]:
    return slice_.subset, slice_.source, slice_.start


def _refuse(folder: Path, slice_: Slice, difference: str) -> NoReturn:
    raise ConfigError(
        "sources",
        f"{slice_.source} from {slice_.unit[:-1]} {slice_.start:,}",
        f"{difference} ({folder / PLAN})",
        "Restore the corpus as it was, or use another output folder",
    )
