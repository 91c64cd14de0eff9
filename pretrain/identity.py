"""What a resume must find: the fields that define a run unchanged, and an end that is ahead."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from mobilellama.config import ConfigError, as_given
from mobilellama.pretrain.config import StageConfig
from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.engines.engine import resolve_precision
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state.checkpoint import newest_readable
from mobilellama.pretrain.state.manifest import Manifest
from mobilellama.pretrain.training_data import TrainingData
from mobilellama.run_folder import RunFolder

_MEANINGS = {
    "data.fingerprint": "the data, or settings that decide them, have changed since the run "
    "began: see data.path",
    "data.reading_version": "the samples were made with other rules for reading records: "
    "restore the run's samples folder",
    "init.fingerprint": "the run began from other weights: see init",
}

_FORMERLY: dict[str, object] = {
    "model.squeeze": "quarter",
    "model.pooling": "2x2",
    "model.images.orientation": "as_stored",
}
"""What a field was in runs whose checkpoints do not have it."""


def identity_of(
    config: StageConfig, model: ModelConfig, data: TrainingData, precision: str
) -> dict[str, object]:
    """Return the fields that define a run of any stage, which a resume must not change."""
    return {
        **{f"model.{name}": value for name, value in asdict(model).items()},
        "train.seq_len": data.seq_len,
        "train.global_batch_size": config.train.global_batch_size,
        "engine.precision": precision,
        "data.seed": config.data.seed,
        "data.tokenizer_sha256": data.dataset.identity.tokenizer_sha256,
        "data.fingerprint": data.dataset.fingerprint,
        # Last: it follows from other fields where no mixture is given.
        "data.mixture": data.mixture.identity(),
    }


def precision_of(engine: EngineConfig, run: RunFolder, device: torch.device) -> str:
    """Return the run's precision: ``auto`` is what it began with, whatever machine goes on."""
    found = newest_readable(run) if engine.precision == "auto" else None
    before = found[1].identity.get("engine.precision") if found else None
    return before or resolve_precision(engine.precision, device)


def require_same_identity(
    run: RunFolder, identity: Mapping[str, object], *, optimizer: str
) -> None:
    """Raise ConfigError naming the first field that differs from the run's newest checkpoint.

    A damaged checkpoint says nothing of the identity; opening it will tell that it is damaged.

    Args:
        run: the run's folder.
        identity: the fields that define the run.
        optimizer: the value of ``optimizer.kind``.
    """
    found = newest_readable(run)
    if found is None:
        return
    folder, manifest = found
    for name, value in identity.items():
        before = manifest.identity.get(name, _FORMERLY.get(name))
        if before != value:
            meaning = f" ({_MEANINGS[name]})" if name in _MEANINGS else ""
            rule = f"{folder} was made with {as_given(before)}{meaning}"
            raise ConfigError(name, value, rule, "Use that, or another run.folder")
    if (before := manifest.optimizer.kind) != optimizer:
        rule = f"{folder} holds the state of {as_given(before)}"
        remedy = "Use that, or begin another run.folder with its weights (--init)"
        raise ConfigError("optimizer.kind", optimizer, rule, remedy)


def require_end_ahead(
    run: RunFolder, train: Mapping[str, Any], end: Callable[[Manifest], int | None]
) -> None:
    """Raise ConfigError if a run has passed the step or the sample that it would end at.

    Args:
        run: the run's folder.
        train: the values of ``train.*``.
        end: (newest checkpoint) -> the samples of the whole run. It is asked only where
            ``train.max_steps`` does not say the end; None is no end.
    """
    found = newest_readable(run)
    if found is None:
        return
    folder, step, consumed = found[0], found[1].step, found[1].consumed
    max_steps = train.get("max_steps")
    if max_steps is not None and step > max_steps:
        rule = f"the run is at step {step} already ({folder})"
        remedy = f"Give {step} or more, or another run.folder for a shorter run"
        raise ConfigError("train.max_steps", max_steps, rule, remedy)
    samples = end(found[1]) if max_steps is None else None
    if samples is not None and consumed > samples:
        rule = f"the run is beyond them already, at step {step} ({consumed:,} samples)"
        remedy = "Give more, or another run.folder for a shorter run"
        raise ConfigError("train.epochs", train["epochs"], rule, remedy)
