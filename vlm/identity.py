"""What a resume of a vision run must not change."""

import logging
from pathlib import Path

from mobilellama.pretrain.state.checkpoint import newest_readable
from mobilellama.run_folder import RunFolder
from mobilellama.vlm.config import Config
from mobilellama.vlm.data.missing import IDENTITY, read_image_check
from mobilellama.vlm.data.sample_file import Recipe, reading_of
from mobilellama.vlm.start import VisionLanguageStart

log = logging.getLogger(__name__)

_READING = "data.reading_version"


def samples_path(run: RunFolder, name: str) -> Path:
    """Return the file of a run's tokenised records."""
    return run.path / "samples" / f"{name}.arrow"


def identity_of(
    config: Config, start: VisionLanguageStart, recipe: Recipe, fingerprint: str, precision: str
) -> dict[str, object]:
    """Return the fields that a resume must not change."""
    adapters = {"lora.alpha": config.lora.alpha, "lora.targets": config.lora.targets}
    return {
        "init.fingerprint": start.fingerprint,
        **_flat("model", start.architecture.to_dict()),
        "train.language_model": config.train.language_model,
        "lora.rank": config.lora.rank,
        **(adapters if config.lora.rank else {}),
        "train.seq_len": config.train.seq_len,
        "train.global_batch_size": config.train.global_batch_size,
        "engine.precision": precision,
        "data.seed": config.data.seed,
        "data.grouping": config.data.grouping,
        "data.tokenizer_sha256": recipe.tokenizer_sha256,
        "data.template": recipe.template.sha256,
        "data.fingerprint": fingerprint,
    }


def reading_identity(run: RunFolder, fingerprint: str) -> dict[str, int]:
    """Return by which rules the run's records are read, for its identity.

    It is empty for a run that began before there was more than one version of them.
    """
    reading = reading_of(samples_path(run, "train"), fingerprint)
    newest = newest_readable(run)
    if newest is None or _READING in newest[1].identity:
        return {_READING: reading}
    if reading != 1:
        log.warning(
            "the run's samples are made again, by version %d of the rules for reading records. It "
            "began with version 1. If the new rules judge its records otherwise, it goes on with "
            "other samples. Restore %s to prevent that",
            reading, samples_path(run, "train").parent,
        )  # fmt: skip
    return {}


def missing_identity(run: RunFolder) -> dict[str, str | None]:
    """Return which samples are left out for want of images, for the identity of a checked run."""
    found = read_image_check(samples_path(run, "train"))
    return {} if found is None else {IDENTITY: found.digest()}


def _flat(name: str, value: object) -> dict[str, object]:
    """Return the leaves of nested dicts by dotted names, so that a message can name one."""
    if not isinstance(value, dict):
        return {name: value}
    leaves = (_flat(f"{name}.{key}", inner) for key, inner in value.items())
    return {key: inner for part in leaves for key, inner in part.items()}
