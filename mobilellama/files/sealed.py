"""JSON files that decide something. Each has a digest of its content, which its reader checks.

    {
      "sealed": 1,                   version of the digest
      ...                            the content
      "content_sha256": "<64 hex>"   sha256 of the content's canonical JSON
    }

A file without both fields was written by an older version, and is read with one warning. A file
with only one of them is damaged. So a flipped bit cannot make a new file look like an old one.
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
    """The content has changed since it was written. The message does not name the file."""


def write_sealed_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON object with its digest, atomically."""
    write_json(path, seal(content))


def seal(content: Mapping[str, object]) -> dict[str, object]:
    """Return the content with its digest, as ``write_sealed_json`` writes it."""
    assert not {_SEALED, _DIGEST} & content.keys()
    as_read = json.loads(json.dumps(content))  # JSON has lists for tuples and only string keys
    return {_SEALED: _VERSION, **content, _DIGEST: _digest(as_read)}


def read_sealed_json(path: Path, *, owner: Path | None) -> dict[str, Any]:
    """Read a JSON object, check its digest, and return the content.

    Args:
        path: the file.
        owner: the folder for the warning that an older version wrote the file. Each folder is
            named once. None: no warning.

    Raises:
        SealError: the content has changed since it was written.
        ValueError: the file is not a JSON object.
    """
    value = read_json(path)
    content = unseal(value)
    if content is None:
        if owner:
            _warn_of_old(owner)
        return value
    return content


def unseal(value: object) -> dict[str, Any] | None:
    """Check the digest of what ``seal`` returned, and return the content.

    None: it is a JSON object without a digest, as older versions wrote them.

    Raises:
        SealError: the content has changed since it was sealed.
        ValueError: it is not a JSON object.
    """
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    content = dict(value)
    version, digest = content.pop(_SEALED, None), content.pop(_DIGEST, None)
    if version is None and digest is None:
        return None
    if version != _VERSION or type(version) is not int:
        raise SealError(f"its field '{_SEALED}' is {version!r}, not {_VERSION}")
    if digest != _digest(content):
        raise SealError(f"its content does not have the sha256 of its field '{_DIGEST}'")
    return content


def _digest(content: Mapping[str, object]) -> str:
    # As ASCII, because UTF-8 cannot hold half a surrogate pair.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _warn_of_old(owner: Path) -> None:
    """Warn that flipped bits are not noticed there: once a folder, only on rank 0."""
    try:
        rank = rank_from_environment()
    except ConfigError:  # code that needs the rank reports it
        rank = 0
    if rank == 0 and multiprocessing.parent_process() is None:
        log.warning(
            "%s: an older version wrote it, without digests of its JSON files. A damaged value "
            "in them is not noticed",
            owner,
        )
