"""The files below a folder of a corpus: links are followed, loops and hidden files are not."""

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from mobilellama.config import ConfigError

log = logging.getLogger(__name__)

_MOST_NAMES = 1_000  # of one folder: links crosswise between a few make millions
_SHOWN_LOOPS = 20
_SHOWN_FILES = 3


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
