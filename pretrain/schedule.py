"""The learning rate as a pure function of the step.

A schedule is a factor of each group's peak rate: a linear warm-up to 1, a hold, and a fall to
`min_lr_ratio`. The kinds differ in where the fall begins and in its shape:

    cosine    falls from the end of the warm-up to the last step
    linear    the same in a straight line
    wsd       holds the peak, and falls over the run's last steps alone (warm-up, stable, decay)
    constant  never falls

To add a shape, name it in `Shape` and give its words and its function in `_SHAPES`. To add a kind,
name it in `Kind`. A kind that has the name of a shape falls in that shape from the warm-up to the
last step. For others, `ScheduleConfig._fall` says where they fall, and how.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from mobilellama.config import ConfigError, require_at_least, require_share
from mobilellama.progress import format_count

Kind = Literal["cosine", "wsd", "linear", "constant"]
Shape = Literal["linear", "cosine", "sqrt"]

_SHAPES: dict[Shape, tuple[str, Callable[[float], float]]] = {
    "linear": ("linear", lambda progress: 1 - progress),
    "cosine": ("cosine", lambda progress: (1 + math.cos(math.pi * progress)) / 2),
    # Hägele et al., arXiv 2405.18392, section 3: lower losses than a straight line.
    "sqrt": ("1 - sqrt", lambda progress: 1 - math.sqrt(progress)),
}
"""A shape's name in sentences, and what is left of the way from peak to minimum: 1 to 0, as the
progress goes from 0 to 1."""

_DECAY_RATIO = 0.1
"""Of wsd; MiniCPM (arXiv 2404.06395, section 4.2) finds a tenth of the steps to be enough."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Linear warm-up, then what the kind says."""

    kind: Kind = "cosine"
    """cosine and linear fall from the end of the warm-up to the last step. wsd keeps the peak and
    falls over the last steps. constant keeps the peak."""
    warmup_steps: int = 2000
    """Steps of linear warm-up. Step s < warmup_steps has (s + 1) / warmup_steps of the peak."""
    warmup_ratio: float | None = None
    """Warm-up as a share of the run's steps, rounded up, instead of warmup_steps."""
    min_lr_ratio: float = 0.1
    """Learning rate of the last step, as a share of the peak (in the paper 3e-5 of 3e-4). constant
    does not use it."""
    decay_ratio: float | None = None
    """Only for wsd: the share of the run's steps that fall, rounded up. null: 0.1."""
    decay_steps: int | None = None
    """Only for wsd: the number of steps that fall, instead of decay_ratio."""
    decay_shape: Shape | None = None
    """Only for wsd: the shape of the fall. sqrt is 1 - sqrt(progress). null: linear."""

    def __post_init__(self) -> None:
        require_at_least("schedule.warmup_steps", self.warmup_steps, 0)
        if not 0 <= self.min_lr_ratio <= 1:
            rule, remedy = "must be a share, 0 to 1", "Give 0.1 for a tenth of the peak"
            raise ConfigError("schedule.min_lr_ratio", self.min_lr_ratio, rule, remedy)
        if self.warmup_ratio is not None:
            require_share("schedule.warmup_ratio", self.warmup_ratio)
        self._require_decay()

    def _require_decay(self) -> None:
        """Raise ConfigError for a decay that the kind has not, or that cannot be."""
        for name in ("decay_ratio", "decay_steps", "decay_shape"):
            if self.kind != "wsd" and (value := getattr(self, name)) is not None:
                rule = f"has no effect with schedule.kind {self.kind}"
                raise ConfigError(f"schedule.{name}", value, rule, "Give null, or kind wsd")
        if self.decay_ratio is not None and not 0 < self.decay_ratio <= 1:
            rule, remedy = "must be above 0, and at most 1", "Give 0.1 for the last tenth"
            raise ConfigError("schedule.decay_ratio", self.decay_ratio, rule, remedy)
        if self.decay_steps is not None:
            require_at_least("schedule.decay_steps", self.decay_steps, 1)
            if self.decay_ratio is not None:
                rule = f"is given together with schedule.decay_ratio = {self.decay_ratio:g}"
                raise ConfigError(
                    "schedule.decay_steps", self.decay_steps, rule, "Give one of the two"
                )

    def warmup(self, max_steps: int) -> int:
        """Return the steps of warm-up in a run of `max_steps`."""
        if self.warmup_ratio is None:
            return self.warmup_steps
        return _part(self.warmup_ratio, max_steps)

    def factor(self, step: int, max_steps: int) -> float:
        """Return the factor of every group's peak rate at `step`, counted from 0.

        Where it falls: min + (1 - min) * shape(progress), where progress goes from 0 at the last
        step at the peak to 1 at the run's last step; one step later where the minimum is 0.
        """
        warmup = self.warmup(max_steps)
        if step < warmup:
            return (step + 1) / warmup
        fall = self._fall(max_steps)
        if fall is None:
            return 1.0
        peak, shape = fall
        _, left = _SHAPES[shape]
        # A rate of 0 would waste the last step: it falls behind it, as transformers' cosine does.
        last = max_steps - 1 if self.min_lr_ratio else max_steps
        progress = min(max(step - peak, 0) / max(last - peak, 1), 1.0)
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * left(progress)

    def _fall(self, max_steps: int) -> tuple[int, Shape] | None:
        """Return the last step at the peak and the shape of the fall after it; None: no fall."""
        warmup = self.warmup(max_steps)
        if self.kind == "constant":
            return None
        if self.kind == "wsd":
            # A decay longer than what the warm-up leaves is as long as that.
            peak = max(max_steps - 1 - self.decay(max_steps), warmup - 1)
            return peak, self.decay_shape or "linear"
        return warmup, self.kind

    def decay(self, max_steps: int) -> int:
        """Return the steps of wsd's decay in a run of `max_steps`."""
        if self.decay_steps is not None:
            return self.decay_steps
        return _part(self.decay_ratio or _DECAY_RATIO, max_steps)

    def describe(self, peak: float, max_steps: int) -> str:
        """Return the schedule as one sentence without its full stop, for logs and cards.

        Args:
            peak: the learning rate at a factor of 1.
            max_steps: of the whole run.
        """
        warmup, fall = self.warmup(max_steps), self._fall(max_steps)
        begin = (
            f"warm-up to {peak:g} over {format_count(warmup, 'step')}"
            if warmup
            else f"{peak:g} from the first step"
        )
        if warmup >= max_steps:
            return f"{begin}, of which the run has {max_steps:,}"
        if fall is None:
            return f"{begin}, then constant"
        at, shape = fall
        words, _ = _SHAPES[shape]
        hold = f"constant to step {at + 1:,}, then " if self.kind == "wsd" and at >= warmup else ""
        fell = f"{words} to {peak * self.min_lr_ratio:g} at step {max_steps:,}"
        return f"{begin}, then {hold}{fell}"


def stored_schedule(config: Mapping[str, Any], *, step: int) -> tuple[ScheduleConfig, int]:
    """Return the schedule and the steps of a run by a checkpoint's config.

    A schedule without a kind is of a version that had the cosine alone.

    Args:
        config: as the checkpoint's manifest has it.
        step: of the checkpoint; the run's end, where the config does not say how far it goes.
    """
    train = config["train"]
    return ScheduleConfig(**config["schedule"]), train.get("steps") or train["max_steps"] or step


def schedule_text(config: Mapping[str, Any], peak: float, *, step: int) -> str:
    """Return the schedule of a checkpoint's config in words; see `stored_schedule`."""
    schedule, max_steps = stored_schedule(config, step=step)
    return schedule.describe(peak, max_steps)


def change_text(
    before: tuple[ScheduleConfig, int], now: tuple[ScheduleConfig, int], step: int
) -> str | None:
    """Return what a resume after `step` steps does to the learning rate, as one sentence.

    Args:
        before: the schedule and the steps of the run when it was saved.
        now: the same as they are asked for now.
        step: that the run has reached.

    Returns:
        None where nothing changes, or no step is left.
    """
    (schedule, max_steps), first = now, step + 1
    if before == now or not 0 < step < max_steps:
        return None
    last, end = before[0].factor(step - 1, before[1]), schedule.factor(max_steps - 1, max_steps)
    follows = schedule.factor(step, max_steps)
    planned = f"was to be {_percent(before[0].factor(step, before[1]))}"
    if step >= before[1]:
        planned = "the run was at its end"
    rises = "; it rises again, and the loss may rise with it for a while" if follows > last else ""
    return (
        f"the learning rate goes from {_percent(last)} of its peak at step {step:,} to "
        f"{_percent(follows)} at step {first:,} ({planned}) and to {_percent(end)} at step "
        f"{max_steps:,}, the last{rises}"
    )


def _percent(factor: float) -> str:
    return f"{100 * factor:.3g} %"


def _part(ratio: float, max_steps: int) -> int:
    # As it is written: 0.07 * 100 is above 7 in binary, and would be rounded up to 8.
    return math.ceil(Fraction(str(ratio)) * max_steps)
