"""What defines a run: the fields that a resume must find unchanged."""

from dataclasses import asdict
from typing import Any

from mobilellama.config import ConfigError
from mobilellama.pretrain.assemble import Data
from mobilellama.pretrain.checkpoint import Checkpoint
from mobilellama.pretrain.config import Config


def identity_of(config: Config, data: Data, precision: str) -> dict[str, Any]:
    """Return the fields that define the run, which a resume must not change."""
    return {
        **{f"model.{name}": value for name, value in asdict(config.model).items()},
        "train.seq_len": config.train.seq_len,
        "train.global_batch_size": config.train.global_batch_size,
        "engine.precision": precision,
        "data.seed": config.data.seed,
        "data.tokenizer_sha256": data.dataset.identity.tokenizer_sha256,
        "data.fingerprint": data.dataset.fingerprint,
        # Last: it follows from other fields where no mixture is given.
        "data.mixture": data.mixture.identity(),
    }


def require_same_identity(checkpoint: Checkpoint, identity: dict[str, Any]) -> None:
    """Raise ConfigError naming the first field that differs from the checkpoint's."""
    for name, value in identity.items():
        before = checkpoint.manifest.identity.get(name)
        if before != value:
            raise ConfigError(
                name,
                value,
                f"{checkpoint.folder} was made with {before}",
                "Use that, or another run.folder",
            )
