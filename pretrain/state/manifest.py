"""The manifest of a checkpoint: what it says of itself, sealed with a digest of its own.

A folder without one is no whole checkpoint (``checkpoint.py``).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mobilellama.commandline.old_names import as_current
from mobilellama.config import DataError, UserError
from mobilellama.files.sealed import read_sealed_json
from mobilellama.run_folder import step_of

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint says of itself."""

    format_version: int = FORMAT_VERSION
    step: int
    """Optimizer steps taken, skipped ones included."""
    consumed: int
    """Samples consumed: the data position."""
    optimizer_step: int
    """Steps that AdamW applied."""
    world_size: int
    attempt: int
    identity: dict[str, Any]
    """What must not change over a run."""
    config: dict[str, Any]
    """The resolved config, under the names of today; the file has those of old_names.py."""
    counters: dict[str, Any]
    """Skipped steps and the history of the loss watch."""
    receipts: dict[str, str]
    """sha256 of each rank's receipt, by file name."""
    frozen_sha256: str | None = None
    """Of the file of the parameters that do not train; None where all do."""

    def __post_init__(self) -> None:
        for name in ("step", "consumed", "optimizer_step", "world_size", "attempt"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise TypeError(f"{name} is {value!r}")
        for name in ("identity", "config", "counters", "receipts"):
            if not isinstance(getattr(self, name), dict):
                raise TypeError(f"{name} is no object")
        if len(self.receipts) != self.world_size:
            raise TypeError(f"{len(self.receipts)} receipts of {self.world_size} ranks")


def read_manifest(folder: Path) -> Manifest:
    """Read a checkpoint's manifest, and check that it is as it was written and where it belongs.

    Raises:
        DataError: it is missing or damaged, or the folder has the name of another step.
        UserError: another version wrote it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise damaged(path, "missing, so this is no whole checkpoint")
    named = step_of(folder.name)
    try:
        owner = folder if named is None else folder.parent
        value = read_sealed_json(path, owner=owner)
        version = value["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(
                f"{path}: format {version}, but this version reads {FORMAT_VERSION}. "
                "Use the version that wrote it, or another run.folder"
            )
        manifest = Manifest(**value)
        missing = {"data.tokenizer_sha256", "data.fingerprint"} - manifest.identity.keys()
        if missing or "model" not in manifest.config:
            raise UserError(
                f"{path}: another version wrote it, without {', '.join(sorted(missing)) or 'model'}"
                ". Use that version, or another run.folder"
            )
        manifest = replace(manifest, config=as_current(manifest.config))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(path, f"not a checkpoint's manifest ({error})") from None
    if named not in (None, manifest.step):
        raise DataError(
            f"{folder}: the folder's name says step {named}, but it holds the checkpoint of step "
            f"{manifest.step}. Rename it to step-{manifest.step}, or remove it"
        )
    return manifest


def damaged(path: Path, what: str) -> DataError:
    """Return the error for a file of a checkpoint that is not as it was written."""
    return DataError(f"{path}: {what}. Take an earlier checkpoint")
