"""The section ``checkpoint`` of a run's config; it is read without torch."""

from dataclasses import dataclass

from mobilellama.config import require_at_least


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save, and which checkpoints to keep."""

    every_steps: int = 500
    """Steps between two checkpoints. The last step and a stop always save."""
    keep_last: int = 3
    """Number of newest checkpoints to keep."""
    keep_every_steps: int | None = 10_000
    """Keep every checkpoint whose step is a multiple of this. null: delete all but the newest."""

    def __post_init__(self) -> None:
        require_at_least("checkpoint.every_steps", self.every_steps, 1)
        require_at_least("checkpoint.keep_last", self.keep_last, 1)
        if self.keep_every_steps is not None:
            require_at_least("checkpoint.keep_every_steps", self.keep_every_steps, 1)
