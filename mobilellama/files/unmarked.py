"""Folders whose JSON files have a byte order mark, which editors on Windows add.

Other libraries refuse such files.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mobilellama.files.json_lines import UTF8_MARK


@contextlib.contextmanager
def without_marks(folder: Path) -> Iterator[Path]:
    """Yield the folder, or a temporary copy of it if JSON files begin with a byte order mark.

    The copy has links to the other files, and these JSON files without their marks.
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
    """Copy a file. A JSON file loses its byte order mark; all other bytes stay the same."""
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
