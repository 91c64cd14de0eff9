"""The section ``checkpoint`` of a run's config; it is read without torch."""

from dataclasses import dataclass

from mobilellama.config import require_at_least


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save, and what to keep."""

    every_steps: int = 500
    """Steps from one checkpoint to the next; the last step and a stop always save."""
    keep_last: int = 3
    """Newest checkpoints that are kept."""
    keep_every_steps: int | None = 10_000
    """Checkpoints at multiples of this are kept for good; None keeps none."""

    def __post_init__(self) -> None:
        require_at_least("checkpoint.every_steps", self.every_steps, 1)
        require_at_least("checkpoint.keep_last", self.keep_last, 1)
        if self.keep_every_steps is not None:
            require_at_least("checkpoint.keep_every_steps", self.keep_every_steps, 1)
