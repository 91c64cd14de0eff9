"""Shared parts of pictures: colours, a bare axis, its numbers, and writing a PNG file atomically.

matplotlib is imported where it is used, because the import takes most of a second. pyplot is not
used, because it chooses a backend for the whole process.
"""

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellama.config import ConfigError
from mobilellama.files.atomic import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#333333"
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#8a5a44")
_DPI = 150
_MOST_TICKS = 8  # of which none overlap
_UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def require_png(field: str, path: str) -> None:
    """Raise ConfigError unless `path` names a .png file in a folder that exists."""
    if Path(path).suffix.lower() != ".png":
        raise ConfigError(field, path, "must end in .png", "Name a .png file")
    if not Path(path).absolute().parent.is_dir():
        rule = "lies in a folder that does not exist"
        raise ConfigError(field, path, rule, "Make the folder first")


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of this size, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def colour(i: int) -> str:
    """Return the colour of the i-th subset, the same in every picture."""
    return _COLOURS[i % len(_COLOURS)]


def strip(axis: Any, *, ruled: bool = False) -> None:
    """Remove an axis's frame except its bottom line.

    Args:
        axis: of matplotlib.
        ruled: whether to draw a grid line and a number for each height.
    """
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color("#999999")
    axis.tick_params(axis="both" if ruled else "x", labelsize=8, colors="#555555")
    axis.tick_params(axis="y", length=0)
    if ruled:
        axis.grid(axis="y", color="#e6e8ea", linewidth=0.7)
        axis.set_axisbelow(True)


def log_ticks(least: float, most: float) -> list[float]:
    """Return the numbers to write on a logarithmic axis: at most `_MOST_TICKS`, round.

    Over decades these are powers of ten; over less 1, 2, 5, 10, ...; where of those fewer than
    three lie between the ends, evenly spaced ones.
    """
    decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    fine = [digit * 10.0**power for power in decades for digit in (1, 2, 5)]
    inside = [tick for tick in fine if least <= tick <= most]
    if len(inside) < 3:
        from matplotlib.ticker import MaxNLocator

        even = MaxNLocator(nbins=_MOST_TICKS - 1, steps=[1, 2, 5, 10], integer=True).tick_values(
            least, most
        )
        return [float(tick) for tick in even if least <= tick <= most]
    if len(inside) > _MOST_TICKS:
        inside = [10.0**power for power in decades if least <= 10.0**power <= most]
    every = math.ceil(len(inside) / _MOST_TICKS)
    return inside[::every]


def short_tick(number: float) -> str:
    """Return a round number with all of its digits, and its unit: 1.5 k, 200, 20 k."""
    size, unit = next(((size, unit) for unit, size in _UNITS if number >= size), (1, ""))
    return f"{number / size:g} {unit}".rstrip()


def short_count(count: float) -> str:
    """Return a count in three digits: 1.21 T, 878 G, 3.40 M, 512."""
    for unit, size in _UNITS:
        if count >= size:
            value = count / size
            return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"
    return f"{count:.0f}"


def write_png(figure: "Figure", path: str) -> None:
    """Write the figure atomically. An existing file is replaced."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=_DPI)
    with whole_file(Path(path)) as file:
        file.write(picture.getvalue())
