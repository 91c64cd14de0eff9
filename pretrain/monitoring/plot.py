"""Draw a run's losses, rates and speed from its metrics.jsonl, as a PNG.

    mobilellama pretrain plot RUN --output loss.png

Works on a run of any stage, whether it is finished, stopped or still training.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellama import log as logs
from mobilellama.config import ConfigError
from mobilellama.picture import INK, colour, new_figure, require_png, strip, write_png
from mobilellama.run_folder import RunFolder

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


def read_losses(run: RunFolder) -> list[dict[str, Any]]:
    """Return the run's metrics.

    Raises:
        ConfigError: it has no losses yet.
    """
    records = run.read_metrics()
    if not _series(records, "loss")[1]:
        rule = f"holds no losses yet in {run.metrics.name}"
        raise ConfigError("run", str(run.path), rule, "Give the --run.folder of a run that trains")
    return records


def draw(records: list[dict[str, Any]], *, title: str, config: Config) -> Any:
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
        axis.plot(*_series(records, name), color=colour(0), linewidth=1.2, label="all others")
        own = _parts(records, name)  # of the projector, which may have a rate of its own
        for i, part in enumerate(own, 1):
            series = _series(records, f"{name}/{part}")
            axis.plot(*series, color=colour(i), linewidth=1.2, label=part)
        if own:
            axis.legend(fontsize=8, frameon=False)
        axis.set_title(label, fontsize=9, color=INK, loc="left")
        axis.set_ylim(bottom=0)
        strip(axis, ruled=True)
    (*_, step), (*_, loss) = _series(records, "loss")
    text = f"{title}: step {step:,}{_seen(records)}, loss {loss:.3f}"
    figure.suptitle(text, color=INK, parse_math=False)  # a folder's name may hold a $
    return figure


def _seen(records: list[dict[str, Any]]) -> str:
    """Return what was trained on, in tokens where samples are equally long."""
    for name, unit in (("tokens", "tokens"), ("consumed", "samples")):
        if values := _series(records, name)[1]:
            return f", {values[-1]:,} {unit}"
    return ""


def _parts(records: list[dict[str, Any]], name: str) -> list[str]:
    """Return the parts of which a metric is told apart: of ``loss/image``, image."""
    names = {key for record in records for key in record if key.startswith(f"{name}/")}
    return sorted(key.removeprefix(f"{name}/") for key in names)


def _draw_losses(axis: Any, records: list[dict[str, Any]], config: Config) -> None:
    for i, subset in enumerate(_parts(records, "loss")):
        steps, values = _series(records, f"validation_loss/{subset}")
        axis.plot(
            *_series(records, f"loss/{subset}"), color=colour(i), linewidth=0.8, alpha=0.35,
            label=None if values else subset,
        )  # fmt: skip
        if values:
            axis.plot(steps, values, "o-", color=colour(i), markersize=3, linewidth=1, label=subset)
    axis.plot(*_series(records, "loss"), color=INK, linewidth=1.8, label="training, all")
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


def _series(records: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    pairs = [(r["step"], r[name]) for r in records if isinstance(r.get(name), int | float)]
    return [step for step, _ in pairs], [value for _, value in pairs]
