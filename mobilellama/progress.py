"""Progress of long work: a bar on a terminal, else one log line a minute.

The bar is one line that fits the terminal. It always shows the title, the share and the time left;
rates are left out if there is no room. It is removed if the work ends with an error or Ctrl-C.
"""

import logging
import time
from types import TracebackType
from typing import TYPE_CHECKING

from mobilellama import terminal

if TYPE_CHECKING:  # rich takes a tenth of a second, and only terminals need it
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

log = logging.getLogger(__name__)

_LOG_EVERY_S = 60.0
_REDRAWS_PER_S = 5.0
_BAR_COLUMNS = (6, 12, 40)  # least width of the bar, width that rates leave to it, most width
# The bars of the work at hand, the innermost last. It alone is drawn: two would share a line.
_bars: list["Live"] = []
_BYTES = (("TB", 1e6), ("GB", 1e3), ("MB", 1.0), ("kB", 1e-3))


class Progress:
    """Count the work done of a total, and show the rate and the time left.

    Use it as a context manager. `unit` is what is counted ("MB", "files", "steps"). Further counts
    given to `advance` (such as ``tokens=5``) are shown as separate rates.
    """

    advances = 0
    """Calls of `advance` in this process. While it rises, the process does not hang."""

    def __init__(self, title: str, *, total: float, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done = 0.0
        self._counts: dict[str, float] = {}
        self._started_s = self._logged_s = time.monotonic()
        self._bar = self._make_bar() if terminal.is_terminal() else None

    def _make_bar(self) -> "Live":
        from rich.console import Console
        from rich.live import Live

        return Live(_Line(self), console=Console(stderr=True), refresh_per_second=_REDRAWS_PER_S)

    def __enter__(self) -> "Progress":
        if self._bar:
            if _bars:
                _bars[-1].transient = True
                _bars[-1].stop()
            _bars.append(self._bar)
            terminal.has_live_line = True
            self._bar.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.transient = error is not None
            self._bar.stop()
            _bars.remove(self._bar)
            terminal.has_live_line = bool(_bars)
            if _bars:
                _bars[-1].start(refresh=True)
        elif error is None:
            log.info("%s", self.line())

    def advance(self, amount: float, **counts: float) -> None:
        """Add to the work done, and to the named counts."""
        Progress.advances += 1
        self._done += amount
        for name, value in counts.items():
            self._counts[name] = self._counts.get(name, 0) + value
        if self._bar is None and time.monotonic() - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = time.monotonic()
            log.info("%s", self.line())

    def line(self) -> str:
        """Return the state as one log line: share, rates, time left."""
        elapsed_s = time.monotonic() - self._started_s
        if not self._total and not self._done:
            return f"{self._title}: nothing to do"
        total = max(self._total, self._done)  # a total may be an estimate
        return (
            f"{self._title}: {self.share:.1f} % of {format_amount(total, self._unit)}, "
            f"{'  '.join(self._rates())}, "
            f"{format_duration(elapsed_s)} gone, {format_duration(self._left_s())} left"
        )

    @property
    def share(self) -> float:
        """Share of the work that is done, in percent."""
        return min(100 * self._done / self._total, 100.0) if self._total else 100.0

    def parts(self) -> list[tuple[int, str]]:
        """Return the parts of the bar's line for ``terminal.fitted``."""
        rates = enumerate(self._rates(), 1)
        left = f"{format_duration(self._left_s())} left"
        return [(0, self._title), (0, f"{self.share:5.1f} %"), *rates, (0, left)]

    def _left_s(self) -> float:
        left = max(self._total - self._done, 0.0)
        return (time.monotonic() - self._started_s) * left / self._done if self._done else 0.0

    def _rates(self) -> list[str]:
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        rates = [f"{_rate(self._done / elapsed_s, self._unit)}/s"]
        counts = list(self._counts.items())  # a copy: the bar's thread reads while it changes
        return rates + [f"{value / elapsed_s:,.0f} {name}/s" for name, value in counts]


class _Line:
    """The state as a line of the terminal's width, with a bar after the title."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        least, kept_free, most = _BAR_COLUMNS
        (_, title), *parts = self._progress.parts()
        columns = options.max_width - len("^C")  # room for the ^C that the terminal prints
        width = columns - len(title) - 2
        text = terminal.fitted(parts, width - kept_free - 2)
        free = width - len(text)
        if free >= least + 2:
            yield Text(f"{title}  ", end="")
            yield ProgressBar(completed=self._progress.share, width=min(free - 2, most))
            yield Text(f"  {text}", end="")
            return
        line = Text(f"{title}  {text}", no_wrap=True, end="")
        if free < 0:  # cut the end of the title
            line = Text(f"{title[: free - 1]}…  {text}", no_wrap=True, end="")
        line.truncate(columns)
        yield line


def format_amount(value: float, unit: str) -> str:
    """Return a whole count with its unit. MB become kB, GB or TB if these fit the size better.

    Args:
        value: the count.
        unit: MB, or a plural in s.
    """
    if unit != "MB":
        return format_count(round(value), unit.removesuffix("s"))
    for name, size in _BYTES:
        if value >= size:
            return f"{value / size:,.1f} {name}"
    return f"{value * 1e6:.0f} bytes"


def format_count(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 file" or "2,000 files".

    Args:
        count: the number.
        noun: what is counted, in the singular.
    """
    ending = "" if count == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{count:,} {noun}{ending}"


def _rate(value: float, unit: str) -> str:
    if unit == "MB" or value >= 100:
        return format_amount(value, unit)
    return f"{value:.{1 if value >= 1 else 2}f} {unit}"


def format_duration(seconds: float) -> str:
    """Return ``1d 02:03:04``, or ``02:03:04`` below a day."""
    days, rest = divmod(round(seconds), 86_400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}d {clock}" if days else clock
