"""Draw a dataset as a PNG: document lengths by subset, and the mixture beside the corpus.

The left part shows, for each subset, how its documents (filled) and its tokens (line) are
distributed over document lengths. The axis is logarithmic, and the dashed line is ``seq_len``. The
right part shows each subset's share of the training tokens and of the mixture, and its epochs in
``budget_tokens``.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobilellama import log as logs
from mobilellama.picture import (
    INK,
    colour,
    log_ticks,
    new_figure,
    require_png,
    short_count,
    short_tick,
    strip,
    write_png,
)
from mobilellama.shards.info import SubsetSummary, Summary, SummaryConfig
from mobilellama.shards.lengths import COARSE_EDGES, Lengths, count_lengths
from mobilellama.shards.reader import TokenDataset

if TYPE_CHECKING:  # imported where it is used: it takes most of a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

log = logging.getLogger(__name__)

_GREY, _NOTE = "#c4c8cc", "#777777"


@dataclass(frozen=True, kw_only=True)
class Config(SummaryConfig):
    """Fields of 'shards plot'."""

    output: str
    """The .png file to write. An existing file is replaced."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_png("output", self.output)


def main(config: Config) -> int:
    """Write the picture."""
    logs.configure()
    dataset = TokenDataset(config.dataset, field="dataset")
    summary = config.summarise(dataset)
    for remark in summary.remarks:
        log.warning("%s", remark)
    write_png(draw(summary, count_lengths(dataset)), config.output)
    print(f"wrote {config.output}")
    return 0


def draw(summary: Summary, lengths: dict[str, Lengths]) -> "Figure":
    """Return the figure of lengths and mixture."""
    figure = new_figure(11.5, 1.9 + 0.72 * len(summary.subsets))
    figure.suptitle(_title(summary), x=0.01, ha="left", fontsize=11, color=INK)
    panels = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.3, 1), wspace=0.03)[0]
    _draw_lengths(panels[0], summary, lengths)
    _draw_mixture(panels[1].subplots(), summary)
    return figure


def _title(summary: Summary) -> str:
    total = summary.total
    return (
        f"{Path(summary.path).name}: {_documents(total)}, "
        f"{short_count(total.tokens)} tokens; fingerprint {summary.fingerprint[:12]}"
    )


def _documents(subset: SubsetSummary) -> str:
    return f"{short_count(subset.documents)} document{'s' * (subset.documents != 1)}"


def _draw_lengths(figure: "SubFigure", summary: Summary, lengths: dict[str, Lengths]) -> None:
    axes = figure.subplots(len(lengths), 1, sharex=True, squeeze=False)[:, 0]
    counts = {name: mine.coarse() for name, mine in lengths.items()}
    seen = np.flatnonzero(sum(documents for documents, _ in counts.values()))
    for i, (axis, (name, (documents, tokens))) in enumerate(zip(axes, counts.items(), strict=True)):
        axis.stairs(_portions(documents), COARSE_EDGES, fill=True, color=colour(i), alpha=0.45)
        axis.stairs(_portions(tokens), COARSE_EDGES, color=colour(i), linewidth=1.4)
        axis.axvline(summary.seq_len, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axis.set_xscale("log")
        axis.set_ylim(0, None)
        axis.set_yticks([])
        axis.margins(x=0)
        axis.set_ylabel(name, rotation=0, ha="right", va="bottom", fontsize=9, color=INK)
        median = short_count(lengths[name].quantile(0.5))
        note = f"{_documents(summary.subsets[name])}\nmedian {median}"
        axis.annotate(
            note, (0, 0.47), (-4, 0), xycoords="axes fraction", textcoords="offset points",
            ha="right", va="top", fontsize=7, color=_NOTE,
        )  # fmt: skip
        axis.tick_params(axis="x", which="both", length=0 if i < len(axes) - 1 else 2.5)
        strip(axis)
    if seen.size:
        bin_width = float(COARSE_EDGES[1] / COARSE_EDGES[0])  # is left free on both sides
        least = min(float(COARSE_EDGES[seen[0]]) / bin_width, 0.8 * summary.seq_len)
        most = max(float(COARSE_EDGES[seen[-1] + 1]) * bin_width, 1.25 * summary.seq_len)
        axes[0].set_xlim(least, most)
        axes[-1].set_xticks(ticks := log_ticks(least, most), map(short_tick, ticks))
    axes[0].set_title(
        "document lengths: share of documents (filled) and of tokens (line)",
        fontsize=9, loc="left", color=INK,
    )  # fmt: skip
    axes[-1].tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    axes[-1].set_xlabel(
        f"tokens a document (dashed: seq_len {summary.seq_len:,})", fontsize=8, color=INK
    )


def _draw_mixture(axis: "Axes", summary: Summary) -> None:
    names = list(summary.subsets)
    places = np.arange(len(names), dtype=float)
    corpus = [100 * summary.subsets[name].corpus_share for name in names]
    mixture = [100 * summary.subsets[name].share for name in names]
    axis.barh(places - 0.19, corpus, height=0.34, color=_GREY)
    axis.barh(places + 0.19, mixture, height=0.34, color=[colour(i) for i in range(len(names))])
    for place, name, above, below in zip(places, names, corpus, mixture, strict=True):
        axis.text(above, place - 0.19, f" {above:.1f} %", va="center", fontsize=7.5, color=_NOTE)
        note = _mixture_note(below, summary.subsets[name]) if summary.total.samples else ""
        axis.text(
            below, place + 0.19, f" {note}",
            va="center", fontsize=7.5, color=INK,
        )  # fmt: skip
    axis.set_yticks(places, names, fontsize=9, color=INK)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(0, 1.45 * max([*corpus, *mixture, 1.0]))  # room for the notes
    axis.set_xticks([tick for tick in axis.get_xticks() if tick <= 100])
    axis.set_xlabel("% of the tokens", fontsize=8, color=INK)
    axis.set_title(_mixture_title(summary), fontsize=9, loc="left", color=INK)
    strip(axis)


def _mixture_title(summary: Summary) -> str:
    if not summary.total.samples:
        return (
            f"corpus (grey); no bucket is long\nenough for a sample of seq_len {summary.seq_len:,}"
        )
    mixed = summary.mixture or "in proportion to the samples"
    budget = short_count(summary.budget_tokens)
    return f"corpus (grey) and mixture: {mixed},\nepochs for {budget} tokens"


def _mixture_note(percent: float, subset: SubsetSummary) -> str:
    if not percent:
        return "not in the mixture"
    many = subset.epochs >= 1000  # 3.20 M, not 3.2e+06
    return (
        f"{percent:.1f} %, epochs: {short_count(subset.epochs) if many else f'{subset.epochs:.3g}'}"
    )


def _portions(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return counts / max(int(counts.sum()), 1)
