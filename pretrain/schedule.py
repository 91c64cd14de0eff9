"""The learning rate as a pure function of the step."""

import math
from dataclasses import dataclass
from fractions import Fraction

from mobilellama.config import ConfigError, require_at_least, require_share


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Linear warm-up, then a cosine."""

    warmup_steps: int = 2000
    """Steps of linear warm-up; step s < warmup_steps runs at (s + 1) / warmup_steps of the peak."""
    warmup_share: float | None = None
    """Warm-up as a share of the run's steps, rounded up, instead of warmup_steps."""
    min_lr_share: float = 0.1
    """The last step's learning rate, as a share of the peak (the paper's 3e-5 of 3e-4)."""

    def __post_init__(self) -> None:
        require_at_least("schedule.warmup_steps", self.warmup_steps, 0)
        if not 0 <= self.min_lr_share <= 1:
            rule, remedy = "must be a share, 0 to 1", "Give 0.1 for a tenth of the peak"
            raise ConfigError("schedule.min_lr_share", self.min_lr_share, rule, remedy)
        if self.warmup_share is not None:
            require_share("schedule.warmup_share", self.warmup_share)

    def warmup(self, max_steps: int) -> int:
        """Return the steps of warm-up in a run of `max_steps`."""
        if self.warmup_share is None:
            return self.warmup_steps
        return math.ceil(Fraction(str(self.warmup_share)) * max_steps)

    def factor(self, step: int, max_steps: int) -> float:
        """Return the factor of every group's peak rate at `step`, counted from 0.

        After warm-up: min + (1 - min) / 2 * (1 + cos(pi * progress)), where progress goes from 0
        to 1 over the steps warmup ... max_steps - 1; to max_steps where the minimum is 0.
        """
        warmup = self.warmup(max_steps)
        if step < warmup:
            return (step + 1) / warmup
        # A rate of 0 would waste the last step: it falls behind it, as transformers' cosine does.
        last = max_steps - 1 if self.min_lr_share else max_steps
        span = max(last - warmup, 1)
        progress = min((step - warmup) / span, 1.0)
        return self.min_lr_share + (1 - self.min_lr_share) / 2 * (1 + math.cos(math.pi * progress))
