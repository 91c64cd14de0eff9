"""The files of a corpus, in a local folder or behind a URL."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from mobilellama.shards.sources.folders import walk_files
from mobilellama.shards.sources.remote import RemoteFolder, RemotePath, SourcePath, is_url

_remote_folder = lru_cache(maxsize=4)(RemoteFolder)


def files_below(root: str) -> dict[str, int]:
    """Return the size of every file below a folder but hidden ones, by relative path.

    Raises:
        ConfigError: of ``walk_files``, or no package reads such URLs.
        DataError: a URL cannot be listed.
    """
    if is_url(root):
        return _remote_folder(root).files()
    return {path: (Path(root) / path).stat().st_size for path in walk_files(Path(root))}


def sizes_below(url: str, paths: Iterable[str]) -> dict[str, int]:
    """Return the sizes of files behind a URL.

    Raises:
        ConfigError: no package reads such URLs.
        DataError: a file cannot be looked at.
    """
    return _remote_folder(url).sizes(paths)


def path_below(root: str, path: str) -> SourcePath:
    """Return a file of a folder by its relative path."""
    return RemotePath(_remote_folder(root), path) if is_url(root) else Path(root) / path


def is_folder(root: str) -> bool:
    """Return whether a source is a folder of files: a local one, or behind a URL."""
    return is_url(root) or Path(root).is_dir()
