"""Folders whose JSON files an editor on Windows has saved: other libraries refuse their marks."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mobilellama.files.json_lines import UTF8_MARK


@contextlib.contextmanager
def without_marks(folder: Path) -> Iterator[Path]:
    """Yield a folder; where JSON files in it begin with a byte order mark, a stand-in for it.

    The stand-in links to the folder's files, has copies of these without their marks, and is
    gone afterwards.
    """
    marked = [path for path in folder.glob("*.json") if _is_marked(path)]
    if not marked:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.") as made:
        for path in folder.iterdir():
            if path not in marked:
                (Path(made) / path.name).symlink_to(path.resolve())
        for path in marked:
            (Path(made) / path.name).write_bytes(path.read_bytes().removeprefix(UTF8_MARK))
        yield Path(made)


def copy_unmarked(source: Path, target: Path) -> None:
    """Copy a file byte for byte; a JSON file without its byte order mark."""
    if source.suffix == ".json" and _is_marked(source):
        target.write_bytes(source.read_bytes().removeprefix(UTF8_MARK))
    else:
        shutil.copyfile(source, target)


def _is_marked(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(UTF8_MARK)) == UTF8_MARK
    except OSError:
        return False
