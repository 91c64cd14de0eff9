"""JSON files that decide something: each carries a digest of its content, and its reader checks it.

    {
      "sealed": 1,                   how the digest is made
      ...                            the content
      "content_sha256": "<64 hex>"   sha256 of the content's canonical JSON
    }

A file with neither of the two fields is one of an older version, and is read with one warning. A
file with one of them is damaged: no flipped bit turns a new file into an old one.
"""

import hashlib
import json
import logging
import multiprocessing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mobilellama.config import ConfigError
from mobilellama.files.atomic import read_json, write_json
from mobilellama.log import rank_from_environment

log = logging.getLogger(__name__)

_VERSION = 1
_SEALED, _DIGEST = "sealed", "content_sha256"


class SealError(ValueError):
    """The content is not what was written. The message says why and names no file."""


def write_sealed_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its digest, whole or not at all."""
    write_json(path, seal(content))


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with its digest, as ``write_sealed_json`` writes it."""
    assert not {_SEALED, _DIGEST} & content.keys()
    as_read = json.loads(json.dumps(content))  # tuples are lists, keys are strings
    return {_SEALED: _VERSION, **content, _DIGEST: _digest(as_read)}


def read_sealed_json(path: Path, *, owner: Path | None) -> dict[str, Any]:
    """Read a JSON object and check its digest; return the content.

    Args:
        path: the file.
        owner: the folder that is named in the warning that an older version wrote the file;
            one warning a folder. None warns of nothing.

    Raises:
        SealError: the content is not what was written.
        ValueError: the file is no JSON object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    version, digest = value.pop(_SEALED, None), value.pop(_DIGEST, None)
    if version is None and digest is None:
        if owner:
            _warn_of_old(owner)
        return value
    if version != _VERSION or type(version) is not int:
        raise SealError(f"its field '{_SEALED}' is {version!r}, not {_VERSION}")
    if digest != _digest(value):
        raise SealError(f"its content has not the sha256 of its field '{_DIGEST}'")
    return value


def _digest(content: dict[str, Any]) -> str:
    # ASCII alone: half a surrogate pair has no UTF-8.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _warn_of_old(owner: Path) -> None:
    """Say that flipped bits cannot be noticed there: once, and in a run's first process alone."""
    try:
        rank = rank_from_environment()
    except ConfigError:  # whoever needs the rank says so
        rank = 0
    if rank == 0 and multiprocessing.parent_process() is None:
        log.warning(
            "%s: an older version wrote it, without digests of its JSON files. A damaged value "
            "in them is not noticed",
            owner,
        )
