"""Where a run's metrics go: a list of sinks, each a file of its own.

A sink is a module with a function ``open_sink(context) -> Sink``. Those beside this file are named
in ``SINKS``; another is named by its module, and nothing here changes:

    mobilellama pretrain run --metrics.sinks '[console, my_package.my_sink]' ...

Every process imports the module at its start, before the processes are connected. A module that
needs something which may not be there can have a function ``require() -> None``. It is called then,
and raises ConfigError. ``open_sink`` is called later, on rank 0 alone.

metrics.jsonl is always written, and must be: what goes on after a kill is cut back by it. A sink
of the list is secondary: one that fails is switched off with a warning, and training goes on.
"""

import importlib
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mobilellama.config import ConfigError, did_you_mean, one_line
from mobilellama.run_folder import RunFolder

log = logging.getLogger(__name__)

SINKS = ("console", "tensorboard", "wandb")
"""The names of our own sinks; each is the module of that name beside this one."""
FIELD = "metrics.sinks"


@dataclass(frozen=True, kw_only=True)
class MetricsRecord:
    """What is known after a step."""

    kind: Literal["interval", "validation"]
    step: int
    values: Mapping[str, float | None]
    """By name, as metrics.jsonl has them; None where it is not known, and NaN and inf as they
    are."""

    def finite(self) -> dict[str, float]:
        """Return the values that can be drawn."""
        values = self.values.items()
        return {name: v for name, v in values if v is not None and math.isfinite(v)}


@dataclass(frozen=True, kw_only=True)
class SinkContext:
    """What a sink is told of the run when it is opened."""

    run: RunFolder
    resumed_step: int
    """The step that this attempt goes on from; what was written of later ones is done again."""
    max_steps: int
    """Of the whole run."""
    per: str
    """What tokens a second are counted by, such as "/GPU"; "" where there is one process."""
    config: Mapping[str, Any]
    """The resolved config."""


class Sink(Protocol):
    """Takes records, on rank 0 alone.

    It may raise any exception; after one, nothing but ``close`` is called.
    """

    def write(self, record: MetricsRecord) -> None:
        """Take a record."""
        ...

    def close(self) -> None:
        """Write what is held back, and end."""
        ...


def require_names(names: Iterable[str]) -> None:
    """Raise ConfigError for a name that is no sink's, or that is there twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(FIELD, name, "is named twice", "Name each sink once")
        seen.add(name)
        if name not in SINKS and "." not in name:
            remedy = f"Or give a module of yours, such as package.module{did_you_mean(name, SINKS)}"
            raise ConfigError(FIELD, name, f"must be of {', '.join(SINKS)}", remedy)


def require_modules(names: Iterable[str]) -> None:
    """Import the modules of these sinks, so that a mistake is told before processes start.

    Raises:
        ConfigError: a module or the package that it needs is not installed.
    """
    for name in names:
        module = _import(name)
        if require := getattr(module, "require", None):
            require()


def open_sinks(names: Iterable[str], context: SinkContext) -> "Secondary":
    """Open the sinks of these names.

    Raises:
        ConfigError: a module or the package that it needs is not installed.
    """
    sinks = Secondary()
    for name in names:
        sinks.open(name, _import(name).open_sink, context)
    return sinks


def _import(name: str) -> Any:
    """Return the module of a sink."""
    try:
        module = importlib.import_module(
            name if "." in name else f"mobilellama.pretrain.sinks.{name}"
        )
    except Exception as error:  # a user's module may raise any error while it is imported
        remedy = "Correct the name or the module, or set PYTHONPATH"
        rule = f"cannot be imported ({one_line(error)})"
        raise ConfigError(FIELD, name, rule, remedy) from None
    if not hasattr(module, "open_sink"):
        rule = "has no function open_sink(context)"
        raise ConfigError(FIELD, name, rule, "See mobilellama/pretrain/sinks/sink.py")
    return module


class Secondary:
    """Sinks that may fail: one that does is switched off, and said so once."""

    def __init__(self) -> None:
        self._sinks: dict[str, Sink] = {}

    def open(self, name: str, make: Any, context: SinkContext) -> None:
        """Add the sink that `make` opens."""
        try:
            self._sinks[name] = make(context)
        except ConfigError:  # asked for what is not installed: better told than found out later
            raise
        except Exception as error:
            self._warn(name, error)

    def write(self, record: MetricsRecord) -> None:
        """Give every sink a record."""
        for name, sink in [*self._sinks.items()]:
            try:
                sink.write(record)
            except Exception as error:
                del self._sinks[name]
                self._warn(name, error)
                _close_quietly(sink)

    def close(self) -> None:
        """Close every sink."""
        for name, sink in self._sinks.items():
            try:
                sink.close()
            except Exception as error:
                self._warn(name, error)
        self._sinks = {}

    def _warn(self, name: str, error: Exception) -> None:
        log.warning(
            "metrics no longer go to %s, which failed: %s. Training goes on; metrics.jsonl has "
            "them all",
            name,
            cause_of(error),
        )


def cause_of(error: BaseException) -> str:
    """Return the first cause of an error; a library's own wording can hide a full disk."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)


def _close_quietly(sink: Sink) -> None:
    """End the threads of a sink that has failed; that it cannot write is told already."""
    try:
        sink.close()
    except Exception as error:
        log.debug("closing it failed too: %s", error)
