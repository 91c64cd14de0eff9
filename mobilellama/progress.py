"""Progress of long work: a rich bar on a terminal, one log line a minute elsewhere."""

import logging
import sys
import time
from types import TracebackType

log = logging.getLogger(__name__)

_LOG_EVERY_S = 60.0


class Progress:
    """Counts work done against a total, and shows rate and time left.

    Use as a context manager. `unit` is what is counted ("MB", "files", "steps"); further
    counts given to `advance` (say ``tokens=5``) are shown as rates of their own.
    """

    advances = 0
    """Of all work of this process; where it rises, the process does not hang."""

    def __init__(self, title: str, *, total: float, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done = 0.0
        self._counts: dict[str, float] = {}
        self._started_s = self._logged_s = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = self._make_bar()

    def _make_bar(self):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>5.1f} %"),
            TextColumn("{task.fields[rates]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
        )
        self._task = bar.add_task(self._title, total=self._total, rates="")
        return bar

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif error is None:
            log.info("%s", self.line())

    def advance(self, amount: float, **counts: float) -> None:
        """Add to the work done and to the named counts."""
        Progress.advances += 1
        self._done += amount
        for name, value in counts.items():
            self._counts[name] = self._counts.get(name, 0) + value
        if self._bar:
            self._bar.update(self._task, completed=self._done, rates=self._rates())
        elif time.monotonic() - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = time.monotonic()
            log.info("%s", self.line())

    def _rates(self) -> str:
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        rates = [f"{self._done / elapsed_s:,.1f} {self._unit}/s"]
        rates += [f"{value / elapsed_s:,.0f} {name}/s" for name, value in self._counts.items()]
        return "  ".join(rates)

    def line(self) -> str:
        """Return the state as one log line: share, rates, time left."""
        elapsed_s = time.monotonic() - self._started_s
        left = max(self._total - self._done, 0.0)  # a total may be an estimate
        left_s = elapsed_s * left / self._done if self._done else 0.0
        share = 100 * self._done / self._total if self._total else 100.0
        return (
            f"{self._title}: {share:.1f} % of {self._total:,.1f} {self._unit}, {self._rates()}, "
            f"{format_duration(elapsed_s)} gone, {format_duration(left_s)} left"
        )


def format_duration(seconds: float) -> str:
    """Return ``1d 02:03:04``, or ``02:03:04`` below a day."""
    days, rest = divmod(round(seconds), 86_400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}d {clock}" if days else clock
