"""The manifest of a checkpoint: its description, with a digest of the manifest itself.

A folder without a manifest is not a complete checkpoint (``checkpoint.py``).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellama.commandline.old_names import as_current
from mobilellama.config import DataError, UserError
from mobilellama.files.sealed import read_sealed_json
from mobilellama.files.typed_json import from_json
from mobilellama.pretrain.state.stored_fields import RunIdentity, StoredConfig
from mobilellama.run_folder import step_of
from mobilellama.run_record import RECORD, RunRecord, record_of

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class StoredOptimizer:
    """The optimizer whose state a checkpoint holds.

    The defaults are for the manifests of older versions, which say nothing of it.
    """

    kind: str = "adamw"
    """The value of ``optimizer.kind``."""
    state: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
    """Names of the tensors of every parameter, besides its weight."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a checkpoint."""

    format_version: int = FORMAT_VERSION
    step: int
    """Optimizer steps so far, skipped ones included."""
    consumed: int
    """Samples consumed: the data position."""
    optimizer_step: int
    """Optimizer steps that changed the weights: skipped ones do not count."""
    world_size: int
    attempt: int
    identity: RunIdentity
    """The fields that must not change during a run."""
    record: RunRecord
    """What the run is."""
    config: StoredConfig
    """The resolved config, under today's field names. The file has the names of old_names.py."""
    counters: dict[str, Any]
    """Number of skipped steps, and the history of the loss watch."""
    receipts: dict[str, str]
    """sha256 of each rank's receipt, by file name."""
    optimizer: StoredOptimizer = StoredOptimizer()
    """The optimizer, and the state that is stored of it."""
    frozen_sha256: str | None = None
    """Of the file with the parameters that do not train. None if all parameters train."""

    def __post_init__(self) -> None:
        for name in ("step", "consumed", "optimizer_step", "world_size", "attempt"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise TypeError(f"{name} is {value!r}")
        for name in ("identity", "config", "counters", "receipts"):
            if not isinstance(getattr(self, name), dict):
                raise TypeError(f"{name} is not an object")
        if len(self.receipts) != self.world_size:
            raise TypeError(f"{len(self.receipts)} receipts of {self.world_size} ranks")


def read_manifest(folder: Path) -> Manifest:
    """Read a checkpoint's manifest, and check its digest and the folder's name.

    Raises:
        DataError: it is missing or damaged, or the folder's name is of another step.
        UserError: another version wrote it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise damaged(path, "missing, so this checkpoint is not complete")
    named = step_of(folder.name)
    try:
        owner = folder if named is None else folder.parent
        value = read_sealed_json(path, owner=owner)
        version = value["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(
                f"{path}: has format {version}, but this version reads format {FORMAT_VERSION}. "
                "Use the version that wrote it, or another run.folder"
            )
        config = as_current(value["config"])
        record = record_of(value.get(RECORD), config)
        optimizer = from_json(StoredOptimizer, value.get("optimizer", {}), "optimizer")
        typed = {"config": config, RECORD: record, "optimizer": optimizer}
        manifest = Manifest(**value | typed)
        missing = {"data.tokenizer_sha256", "data.fingerprint"} - manifest.identity.keys()
        if missing or "model" not in manifest.config:
            raise UserError(
                f"{path}: another version wrote it: {', '.join(sorted(missing)) or 'model'} is "
                "missing. Use that version, or another run.folder"
            )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(path, f"not a checkpoint's manifest ({error})") from None
    if named not in (None, manifest.step):
        raise DataError(
            f"{folder}: the folder's name says step {named}, but it holds the checkpoint of step "
            f"{manifest.step}. Rename it to step-{manifest.step}, or remove it"
        )
    return manifest


def damaged(path: Path, what: str) -> DataError:
    """Return the error for a damaged file of a checkpoint."""
    return DataError(f"{path}: {what}. Take an earlier checkpoint")
