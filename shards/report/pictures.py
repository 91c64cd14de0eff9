"""The pictures of a report as inline SVG that is as wide as the page.

Shapes stretch with the page; text keeps its size, as it is placed in percent. Colours are those
that other pictures give the subsets. A recipe's bar has class "recipe", which the page colours as
its text, light or dark.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mobilellama.picture import colour, log_ticks, short_count, short_tick
from mobilellama.shards.lengths import COARSE_EDGES, Lengths
from mobilellama.shards.report.html import Html, element, escaped, joined

_BAR_PX, _GAP_PX = 13, 3
_HEIGHT_PX, _AXIS_PX = 72, 18
_FEWEST_BINS = 12  # so that one document makes a bar, and not a block
_EDGE_PERCENT = 6  # nearer to an edge of the picture, a label would be cut


def bar_rows(names: Sequence[str], bars: Sequence[Sequence[tuple[float, str]]]) -> Html:
    """Return a row for each subset: its name, one or two bars, and what they are.

    Args:
        names: of the subsets; a name's place decides its colour.
        bars: of each subset (value, label): the first bar in its colour, the second a recipe's.
    """
    most = max((value for row in bars for value, _ in row), default=0) or 1
    rows = []
    for i, (name, row) in enumerate(zip(names, bars, strict=True)):
        shapes = []
        for j, (value, _) in enumerate(row):
            look = {"fill": colour(i)} if j == 0 else {"class_": "recipe"}
            place = {"x": 0, "y": j * (_BAR_PX + _GAP_PX), "height": _BAR_PX, "rx": 2}
            shapes.append(element("rect", width=f"{100 * value / most:.3f}%", **place, **look))
        height = len(row) * (_BAR_PX + _GAP_PX) - _GAP_PX
        labels = [element("span", label) for _, label in row]
        rows += [
            element("div", name, class_="name"),
            _picture(shapes, height, f"{name}: {', '.join(label for _, label in row)}"),
            element("div", *labels, class_="labels"),
        ]
    return element("div", *rows, class_="bars")


def length_pictures(lengths: dict[str, Lengths]) -> Html:
    """Return a histogram of document lengths for each subset, over one logarithmic axis.

    The filled area is the share of documents, the line the share of tokens.
    """
    counts = {name: mine.coarse() for name, mine in lengths.items()}
    seen = np.flatnonzero(sum(documents for documents, _ in counts.values()))
    if not seen.size:
        return element("p", "There are no documents.", class_="note")
    first, last = _widened(int(seen[0]), int(seen[-1]) + 1)
    rows = []
    for i, (name, (documents, tokens)) in enumerate(counts.items()):
        shapes = [
            element("path", d=_steps(part[first:last]), **look)
            for part, look in (
                (documents, {"fill": colour(i), "fill-opacity": 0.45}),
                (tokens, {"stroke": colour(i), "fill": "none", "class_": "line"}),
            )
        ]
        inner = element(
            "svg", *shapes, viewBox=f"0 0 {last - first} 1", preserveAspectRatio="none",
            width="100%", height=_HEIGHT_PX,
        )  # fmt: skip
        base = element("line", x1=0, x2="100%", y1=_HEIGHT_PX, y2=_HEIGHT_PX, class_="axis")
        median = short_count(lengths[name].quantile(0.5))
        label = f"{name}: {short_count(int(documents.sum()))} documents, median {median} tokens"
        rows += [
            element("div", name, class_="name"),
            _picture([inner, base, *_ticks(first, last)], _HEIGHT_PX + _AXIS_PX, label),
        ]
    return element("div", *rows, class_="lengths")


def _widened(first: int, end: int) -> tuple[int, int]:
    """Return a range of bins with at least `_FEWEST_BINS`, the given ones in its middle."""
    more, bins = max(0, _FEWEST_BINS - (end - first)), len(COARSE_EDGES) - 1
    first = max(0, min(first - more // 2, bins - _FEWEST_BINS))
    return first, max(end, first + _FEWEST_BINS)


def _steps(counts: NDArray[np.int64]) -> str:
    """Return the outline of a histogram whose highest bin is 1 high, over bins that are 1 wide."""
    heights = 1 - 0.96 * counts / max(int(counts.max()), 1)
    steps = "".join(f"V{height:.4f}H{i + 1}" for i, height in enumerate(heights.tolist()))
    return f"M0 1{steps}V1Z"


def _ticks(first: int, last: int) -> list[Html]:
    """Return the labels of round lengths below the axis."""
    least, most = float(COARSE_EDGES[first]), float(COARSE_EDGES[last])
    labels = []
    for tick in log_ticks(least, most):
        percent = 100 * float(np.log(tick / least) / np.log(most / least))
        anchor = "middle"
        if percent < _EDGE_PERCENT:
            anchor = "start"
        elif percent > 100 - _EDGE_PERCENT:
            anchor = "end"
        place = {"x": f"{percent:.2f}%", "y": _HEIGHT_PX + _AXIS_PX - 4, "text_anchor": anchor}
        labels.append(element("text", short_tick(tick), **place))
    return labels


def _picture(shapes: Sequence[str], height: int, label: str) -> Html:
    return element(
        "svg", joined(*shapes), role="img", aria_label=escaped(label), width="100%", height=height
    )
