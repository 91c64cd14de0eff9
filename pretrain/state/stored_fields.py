"""The fields of a checkpoint's identity and config that are read by name: cards, resumes, replay.

Both hold more: the identity every field of the model, the config every section of the stage. A
field that only some runs have says which. Code of other runs does not ask for it.
"""

from typing import Any, NotRequired, TypedDict

RunIdentity = TypedDict(
    "RunIdentity",
    {
        "train.seq_len": int,
        "train.global_batch_size": int,
        "engine.precision": str,
        "data.seed": int,
        "data.tokenizer_sha256": str,
        "data.fingerprint": str,
        "data.mixture": dict[str, int],  # not of vlm
        "init.fingerprint": str,  # not of a run that drew new weights
    },
)
"""What a resume must not change, by dotted name."""


class StoredTrain(TypedDict):
    """The section ``train``, with the lengths of the run, which the data may decide."""

    global_batch_size: int
    seq_len: int
    max_steps: int | None
    """None: the epochs decide it. Pretraining always has it."""
    epochs: float
    """Not of pretraining."""
    steps: NotRequired[int]
    """Of the whole run. Older versions did not store it."""


class StoredData(TypedDict):
    """The section ``data``."""

    path: str


class StoredConfig(TypedDict):
    """A run's config as checkpoints and attempts store it, under today's names."""

    model: dict[str, Any]
    """Fields of the stage's architecture."""
    train: StoredTrain
    data: StoredData
    optimizer: dict[str, Any]
    """Fields of the section of the run's version."""
    schedule: dict[str, Any]
