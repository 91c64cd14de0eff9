"""Draw a run's losses, rates and speed from its metrics.jsonl, as a PNG.

    mobilellama pretrain plot RUN --output loss.png

The run may be of any stage. It may be finished, stopped or still training.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from mobilellama import log as logs
from mobilellama.config import ConfigError
from mobilellama.picture import INK, colour, new_figure, require_png, strip, write_png
from mobilellama.run_folder import RunFolder

Records = list[dict[str, Any]]
"""Of metrics.jsonl; the values of a key are of one type."""

_GREY = "#8a8f94"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which run, and where the picture goes."""

    run: str
    """The run's folder."""
    output: str
    """The .png file to write; replaced if it exists."""
    baseline: float | None = None
    """A loss to draw as a dashed line, for instance the unigram entropy of the data, in nats."""
    baseline_label: str = "unigram entropy"
    """What the dashed line is."""

    def __post_init__(self) -> None:
        require_png("output", self.output)


def main(config: Config) -> int:
    """Write the picture."""
    logs.configure()
    records = read_losses(RunFolder(config.run))
    write_png(draw(records, title=Path(config.run).name, config=config), config.output)
    print(f"wrote {config.output}")
    return 0


def read_losses(run: RunFolder) -> Records:
    """Return the run's metrics.

    Raises:
        ConfigError: it has no losses yet.
    """
    records = run.read_metrics()
    if not _series(records, "loss")[1]:
        rule = f"holds no losses yet in {run.metrics.name}"
        raise ConfigError("run", str(run.path), rule, "Give the --run.folder of a run that trains")
    return records


def draw(records: Records, *, title: str, config: Config) -> Any:
    """Return the figure: losses large on the left, three small panels on the right."""
    figure = new_figure(11, 5.6)
    grid = figure.add_gridspec(3, 2, width_ratios=(2.4, 1))
    losses = figure.add_subplot(grid[:, 0])
    _draw_losses(losses, records, config)
    panels = (
        ("learning_rate", "learning rate"),
        ("grad_norm", "gradient norm"),
        ("tokens_per_s_per_gpu", "tokens/s per process"),
    )
    for row, (name, label) in enumerate(panels):
        axis = figure.add_subplot(grid[row, 1])
        own = _parts(records, name)  # of the projector, which may have a rate of its own
        for i, part in enumerate(["", *own]):
            steps, values = _series(records, f"{name}/{part}".rstrip("/"))
            if name != "learning_rate":  # which is that of the step, whatever the interval
                steps, values = even(steps, values)
            axis.plot(
                steps, values, _mark(values), color=colour(i), linewidth=1.2, markersize=3,
                label=part or "all others",
            )  # fmt: skip
        if own:
            axis.legend(fontsize=8, frameon=False)
        axis.set_title(label, fontsize=9, color=INK, loc="left")
        axis.set_ylim(bottom=0)
        strip(axis, ruled=True)
        _number_steps(axis)
    (*_, step), (*_, loss) = _series(records, "loss")
    text = f"{title}: step {step:,}{_seen(records)}, loss {loss:.3f}"
    figure.suptitle(text, color=INK, parse_math=False)  # a folder's name may hold a $
    return figure


def _seen(records: Records) -> str:
    """Return what was trained on, in tokens where samples are equally long."""
    for name, unit in (("tokens", "tokens"), ("consumed", "samples")):
        if values := _series(records, name)[1]:
            return f", {values[-1]:,} {unit}"
    return ""


def _parts(records: Records, name: str) -> list[str]:
    """Return the parts of which a metric is told apart: of ``loss/image``, image.

    Only those that have a value: what draws nothing has no place in a legend.
    """
    names = {key for record in records for key in record if key.startswith(f"{name}/")}
    return sorted(key.removeprefix(f"{name}/") for key in names if _series(records, key)[1])


def _draw_losses(axis: Any, records: Records, config: Config) -> None:
    for i, subset in enumerate(_parts(records, "loss")):
        steps, values = _series(records, f"validation_loss/{subset}")
        _, losses = training = even(*_series(records, f"loss/{subset}"))
        axis.plot(
            *training, _mark(losses), color=colour(i), linewidth=0.8, alpha=0.35, markersize=3,
            label="_" if values else subset,
        )  # fmt: skip
        if values:
            axis.plot(steps, values, "o-", color=colour(i), markersize=3, linewidth=1, label=subset)
    steps, values = even(*_series(records, "loss"))
    axis.plot(
        steps, values, _mark(values), color=INK, linewidth=1.8, markersize=3, label="training, all"
    )
    steps, values = _series(records, "validation_loss")
    if values:
        axis.plot(steps, values, "o--", color=INK, markersize=5, label="held out, all")
    if config.baseline is not None:
        axis.axhline(config.baseline, color=_GREY, linestyle="--", linewidth=1.2)
        axis.annotate(
            f"{config.baseline_label} {config.baseline:.2f}", (1, config.baseline),
            xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9, color=_GREY,
        )  # fmt: skip
    axis.set_xlabel("step")
    axis.set_ylabel("loss, nats a token")
    note = "lines: training; dots: held out"
    axis.legend(title=note, fontsize=8, title_fontsize=8, frameon=False, ncols=2)
    strip(axis, ruled=True)
    _number_steps(axis)


def _mark(values: list[float]) -> str:
    """Return how a curve is drawn: a line of one point would not be seen."""
    return "-" if len(values) > 1 else "o"


def _number_steps(axis: Any) -> None:
    """Number whole steps alone, also where there are few."""
    from matplotlib.ticker import MaxNLocator

    whole = MaxNLocator(nbins="auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    axis.xaxis.set_major_locator(whole)


def even(steps: list[int], values: list[float]) -> tuple[list[int], list[float]]:
    """Return a curve whose points are means over about as many steps each.

    A run that stopped between two intervals' ends has one interval of a few steps before the stop
    and one after the resume. Their means are as noisy as a step's, and would be kinks that only
    tell where the run was stopped. A point of less than half the usual steps is taken together
    with the next, by their steps; the last one with the one before.
    """
    if len(steps) < 3:
        return steps, values
    gaps = [after - before for before, after in pairwise(steps)]
    usual = sorted(gaps)[len(gaps) // 2]
    points: list[tuple[int, float, int]] = []  # (last step, mean, steps)
    for step, value, count in zip(steps, values, [usual, *gaps], strict=True):
        held = points.pop() if points and 2 * points[-1][2] < usual else None
        points.append(_together(held, (step, value, count)) if held else (step, value, count))
    if len(points) > 1 and 2 * points[-1][2] < usual:
        last = points.pop()
        points.append(_together(points.pop(), last))
    return [step for step, _, _ in points], [value for _, value, _ in points]


def _together(one: tuple[int, float, int], other: tuple[int, float, int]) -> tuple[int, float, int]:
    count = one[2] + other[2]
    return other[0], (one[1] * one[2] + other[1] * other[2]) / count, count


def _series(records: Records, name: str) -> tuple[list[int], list[float]]:
    found = ((record["step"], record.get(name)) for record in records)
    pairs = [(s, v) for s, v in found if isinstance(v, int | float) and math.isfinite(v)]
    return [step for step, _ in pairs], [value for _, value in pairs]
