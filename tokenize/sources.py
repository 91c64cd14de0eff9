"""Where the text comes from, and the files that lie there; slices.py cuts them into slices."""

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellama.config import ConfigError, require_at_least
from mobilellama.shards.dataset import Slice

log = logging.getLogger(__name__)

JSONL, ZSTD = ".jsonl", ".jsonl.zst"

LARGEST_PLAN = 1_000_000
"""Slices: each is three files and an entry of the plan."""

_MOST_NAMES = 1_000  # of one folder: links crosswise between a few make millions
_SHOWN_LOOPS = 20
_SHOWN_FILES = 3


@dataclass(frozen=True, kw_only=True)
class SourcesConfig:
    """The corpus: either `root` or `dataset`."""

    root: str | None = None
    """Folder in RedPajama's layout: a folder for each subset, with .jsonl and .jsonl.zst files."""
    dataset: str | None = None
    """In place of `root`: a local folder of .parquet, .json or .jsonl files, a folder written by
    save_to_disk, or the name of a dataset on the Hugging Face Hub. Bad lines of .jsonl files are
    counted and skipped, as under `root`. A parquet column may hold the text as bytes in UTF-8."""
    name: str | None = None
    """Configuration of a dataset on the Hub. None: its only or default one."""
    split: str = "train"
    """Split of a dataset on the Hub, or of a save_to_disk folder."""
    subset: str | None = None
    """Name of the subset that `dataset` becomes. None: the last part of the dataset's name."""
    text_column: str = "text"
    """Field of a record with the text."""
    rows_per_slice: int = 100_000
    """Rows of each bucket, if a dataset is split into ranges of rows and not by data file."""

    def __post_init__(self) -> None:
        if (self.root is None) == (self.dataset is None):
            shown = "(not given)" if self.root is None else self.root
            rule = "exactly one of sources.root and sources.dataset must be given"
            raise ConfigError("sources.root", shown, rule, "Give one of them")
        if self.root is not None and (self.name or self.subset):
            field = "sources.name" if self.name else "sources.subset"
            rule = "belongs to sources.dataset. Under sources.root the folders are the subsets"
            raise ConfigError(field, self.name or self.subset, rule, "Leave it out")
        if self.subset is not None and (Path(self.subset).name != self.subset):
            rule = "must be a plain folder name"
            raise ConfigError("sources.subset", self.subset, rule, "Leave out '/' and '..'")
        require_at_least("sources.rows_per_slice", self.rows_per_slice, 1)

    def require_outside(self, output: str) -> None:
        """Raise ConfigError if `output` lies within the corpus, whose next reader would find it."""
        for field, folder in (("root", self.root), ("dataset", self.dataset)):
            # A dataset's name on the hub is no folder.
            if folder is None or not Path(folder).is_dir():
                continue
            if Path(output).resolve().is_relative_to(Path(folder).resolve()):
                rule = f"lies within sources.{field} = {folder}"
                raise ConfigError("output", output, rule, "Put it beside the corpus")

    def labelled(self, source: str) -> str:
        """Return a source's name in the plan, which tells another text column apart."""
        return source if self.text_column == "text" else f"{source}#{self.text_column}"

    def path_of(self, slice_: Slice) -> Path:
        """Return the file that a slice of bytes is of."""
        return Path(self.root or self.dataset or "") / self.unlabelled(slice_.source)

    def unlabelled(self, source: str) -> str:
        """Return the source of which `labelled` made a slice's."""
        return source if self.text_column == "text" else source.removesuffix(f"#{self.text_column}")


def require_few_slices(count: int, field: str, value: int) -> None:
    """Raise ConfigError if a plan would have too many slices, before they are listed."""
    if count > LARGEST_PLAN:
        rule = f"splits the corpus into {count:,} slices or more, above {LARGEST_PLAN:,}"
        raise ConfigError(field, value, rule, "Give a larger number")


def left_out_text(paths: Sequence[str]) -> str:
    """Return how many files beside the data are left out, by kind, with the first few names."""
    kinds = Counter(Path(path).suffix or "without an ending" for path in paths)
    counted = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    first = ", ".join(sorted(paths)[:_SHOWN_FILES])
    files = f"{len(paths):,} file{'s' * (len(paths) != 1)}"
    return f"left out: {files} beside the data ({counted}), such as {first}"


def walk_files(root: Path) -> Iterator[str]:
    """Yield every file below the root but hidden ones; links are followed, loops are not.

    A folder to which several links lead is walked under each of its names. A link that leads to
    a folder above itself is left out, and a warning says so.

    Raises:
        ConfigError: a link leads nowhere, a file is a pipe, a name is not UTF-8, or folders that
            link to each other have more names than can be meant.
        OSError: a folder cannot be listed.
    """
    waiting = [(str(root), _folders_above(str(root)))]
    num_names: Counter[str] = Counter()  # by the real path of a folder
    num_loops = 0
    while waiting:
        folder, above = waiting.pop()
        real = os.path.realpath(folder)
        num_names[real] += 1
        if num_names[real] > _MOST_NAMES:
            rule = f"has links that give {real} more than {_MOST_NAMES:,} names"
            remedy = "Remove the links by which folders lead to each other"
            raise ConfigError("sources", str(root), rule, remedy)
        for entry in sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name)):
            if entry.name.startswith("."):
                continue
            path = os.path.relpath(entry.path, root)
            if not os.path.isdir(entry.path):
                _require_file(entry.path, path, root)
                yield path
            elif not entry.is_symlink():
                waiting.append((entry.path, above | _folders_above(entry.path)))
            elif (target := os.path.realpath(entry.path)) in above:
                num_loops += 1
                if num_loops <= _SHOWN_LOOPS:
                    told = "left out: the link %s in %s leads to %s, above it"
                    log.warning(told, path, root, target)
            else:
                waiting.append((entry.path, above | _folders_above(entry.path)))
    if num_loops > _SHOWN_LOOPS:
        more = num_loops - _SHOWN_LOOPS
        log.warning("left out: %d more links in %s that lead to a folder above them", more, root)


def _folders_above(folder: str) -> frozenset[str]:
    """Return the real path of a folder and of all that it lies in."""
    real = Path(folder).resolve()
    return frozenset(map(str, (real, *real.parents)))


def _require_file(file: str, path: str, root: Path) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        rule = f"holds a file whose name is not UTF-8: {os.fsencode(path)!r}"
        raise ConfigError("sources", str(root), rule, "Rename the file") from None
    if not os.path.exists(file):
        rule = f"holds the link {path}, whose target does not exist"
        raise ConfigError("sources", str(root), rule, "Fix the link, or remove it")
    mode = os.stat(file).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):  # who opens one may wait for ever
        rule = f"holds {path}, which is a pipe or a socket"
        raise ConfigError("sources", str(root), rule, "Remove it, or put a file there")
