"""Change the content of a JSON file that carries a digest of itself, and write the digest anew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mobilellama.files.sealed import read_sealed_json, write_sealed_json


def edit_sealed(path: Path, change: Callable[[dict[str, Any]], object] | None = None, **new: Any):
    """Set fields of the file's content, or have `change` change it."""
    content = read_sealed_json(path, owner=None) | new
    if change:
        change(content)
    write_sealed_json(path, content)
