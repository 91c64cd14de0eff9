"""The sections ``metrics`` and ``watchdog`` of a run's config; they are read without torch."""

from dataclasses import dataclass, field

from mobilellama.config import ConfigError, require_at_least
from mobilellama.pretrain.sinks.sink import require_names


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """How often, and against what."""

    every_steps: int = 10
    """Steps of one interval. Each interval gives a line on the console and in metrics.jsonl."""
    peak_tflops: float | None = None
    """Dense bf16 peak of one GPU, for MFU. null: find it by the GPU's name."""
    sinks: list[str] = field(default_factory=lambda: ["console", "tensorboard"])
    """Where to write records besides metrics.jsonl: console, tensorboard, wandb, or your own module
    such as package.module with a function open_sink. A sink that fails is switched off with a
    warning."""

    def __post_init__(self) -> None:
        require_at_least("metrics.every_steps", self.every_steps, 1)
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            remedy = "Give the GPU's dense bf16 peak, or null"
            raise ConfigError("metrics.peak_tflops", self.peak_tflops, "must be above 0", remedy)
        require_names(self.sinks)


@dataclass(frozen=True, kw_only=True)
class WatchdogConfig:
    """How long nothing may happen before the ranks are taken to hang."""

    step_minutes: float | None = 10.0
    """All ranks exit with code 75 after so many minutes without new data, a micro-batch or a step.
    null: wait for ever."""
    start_minutes: float | None = 60.0
    """The same during the start, until the first step has ended: minutes without progress."""
    validation_minutes: float | None = 30.0
    """The same during a validation: minutes without a micro-batch."""
    save_minutes: float | None = 30.0
    """The same while a checkpoint is saved."""

    def __post_init__(self) -> None:
        for phase in ("step", "start", "validation", "save"):
            value = getattr(self, f"{phase}_minutes")
            if value is not None and not value > 0:
                field, rule = f"watchdog.{phase}_minutes", "must be above 0"
                raise ConfigError(field, value, rule, "Give minutes, or null to wait for ever")
