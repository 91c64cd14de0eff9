"""The package as it is now, copied beside a run: an edit does not change a job in the queue.

The copy is named for its commit, and where the tree is dirty, or no tree, for its content too:

    launch/code/3f2a91c04b7d/mobilellama/...
    launch/code/3f2a91c04b7d-dirty-9c1e02aa/mobilellama/...
    launch/code/0.1.0-9c1e02aa/mobilellama/...           an installed package
"""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import mobilellama
from mobilellama.files.temporary import temporary_path

PACKAGE = Path(mobilellama.__file__).absolute().parent
_LEFT_OUT = {"__pycache__"}


def take_snapshot(code: Path, package: Path = PACKAGE) -> Path:
    """Copy the package below `code`, unless this very copy is there.

    Returns:
        The folder to put on PYTHONPATH.
    """
    target = code / snapshot_name(package)
    if target.is_dir():
        return target
    code.mkdir(parents=True, exist_ok=True)
    half = temporary_path(target)
    try:
        for path, name in _files(package):
            copy = half / package.name / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        try:
            half.rename(target)
        except OSError:
            if not target.is_dir():  # else another launch came first, with the same content
                raise
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return target


def snapshot_name(package: Path = PACKAGE) -> str:
    """Return the name of the package's state."""
    commit = _git(package, "rev-parse", "--short=12", "HEAD")
    tracked = commit and _git(package, "ls-files", "--error-unmatch", "__init__.py")
    if not tracked:
        return f"{mobilellama.__version__}-{_content_hash(package)}"
    stages = {path.resolve() for path in package.iterdir() if path.is_symlink()}
    places = [str(path) for path in (package, *sorted(stages))]
    changed = _git(package, "status", "--porcelain", "--untracked-files=all", "--", *places)
    return f"{commit}-dirty-{_content_hash(package)}" if changed != "" else str(commit)


def _files(package: Path) -> Iterator[tuple[Path, str]]:
    """Yield (path, name inside the package) of all files, stages' links followed, sorted."""
    for folder in sorted([package, *(path for path in package.iterdir() if path.is_dir())]):
        inside = folder.iterdir() if folder == package else folder.rglob("*")
        for path in sorted(inside):
            if path.is_file() and not _LEFT_OUT & set(path.parts):
                yield path, str(path.relative_to(package))


def _content_hash(package: Path) -> str:
    digest = hashlib.sha256()
    for path, name in _files(package):
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:8]


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git says in a folder; None where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, errors="replace", timeout=30, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
