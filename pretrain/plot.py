"""Draw a run's losses, rates and speed from its metrics.jsonl, as a PNG.

    mobilellama pretrain plot --run RUN --output loss.png

Works on a finished run, a stopped one, or one that is still training.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellama.config import ConfigError
from mobilellama.files import whole_file
from mobilellama.run_folder import RunFolder

_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#8a5a44")
_INK, _GREY = "#333333", "#8a8f94"


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
        if Path(self.output).suffix.lower() != ".png":
            raise ConfigError("output", self.output, "must end in .png", "Name a .png file")
        if not Path(self.output).absolute().parent.is_dir():
            rule = "lies in a folder that does not exist"
            raise ConfigError("output", self.output, rule, "Make the folder first")


def main(config: Config) -> int:
    """Write the picture."""
    records = read_metrics(RunFolder(config.run))
    figure = draw(records, title=Path(config.run).name, config=config)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    with whole_file(Path(config.output)) as file:
        file.write(picture.getvalue())
    print(f"wrote {config.output}")
    return 0


def read_metrics(run: RunFolder) -> list[dict[str, Any]]:
    """Return the records of metrics.jsonl, without a torn last line.

    Raises:
        ConfigError: the run has none yet.
    """
    lines = run.metrics.read_text().splitlines() if run.metrics.is_file() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    if not any("loss" in record for record in records):
        rule = f"holds no losses yet in {run.metrics.name}"
        raise ConfigError("run", str(run.path), rule, "Give the --run.folder of 'pretrain run'")
    return records


def draw(records: list[dict[str, Any]], *, title: str, config: Config) -> Any:
    """Return the figure: losses large on the left, three small panels on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.6), layout="constrained")
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
        axis.plot(*_series(records, name), color=_COLOURS[0], linewidth=1.2)
        axis.set_title(label, fontsize=9, color=_INK, loc="left")
        axis.set_ylim(bottom=0)
        _strip(axis)
    last = [record for record in records if "loss" in record][-1]
    figure.suptitle(
        f"{title}: step {last['step']:,}, {last['tokens']:,} tokens, loss {last['loss']:.3f}",
        color=_INK,
    )
    return figure


def _draw_losses(axis: Any, records: list[dict[str, Any]], config: Config) -> None:
    subsets = sorted({n.removeprefix("loss/") for r in records for n in r if n.startswith("loss/")})
    for i, subset in enumerate(subsets):
        colour = _COLOURS[i % len(_COLOURS)]
        axis.plot(*_series(records, f"loss/{subset}"), color=colour, linewidth=0.8, alpha=0.35)
        steps, values = _series(records, f"validation_loss/{subset}")
        if values:
            axis.plot(steps, values, "o-", color=colour, markersize=3, linewidth=1, label=subset)
    axis.plot(*_series(records, "loss"), color=_INK, linewidth=1.8, label="training, all")
    steps, values = _series(records, "validation_loss")
    if values:
        axis.plot(steps, values, "o--", color=_INK, markersize=5, label="held out, all")
    if config.baseline is not None:
        axis.axhline(config.baseline, color=_GREY, linestyle="--", linewidth=1.2)
        axis.annotate(
            f"{config.baseline_label} {config.baseline:.2f}", (1, config.baseline),
            xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9, color=_GREY,
        )  # fmt: skip
    axis.set_xlabel("step")
    axis.set_ylabel("loss, nats a token")
    note = "lines: training; dots: held-out documents"
    axis.legend(title=note, fontsize=8, title_fontsize=8, frameon=False, ncols=2)
    _strip(axis)


def _series(records: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    pairs = [(r["step"], r[name]) for r in records if r.get(name) is not None]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _strip(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8, colors=_INK)
    axis.grid(axis="y", color="#e6e8ea", linewidth=0.7)
    axis.set_axisbelow(True)
