"""What a projector's kind leaves open: two rules, each with two forms, which models tell apart.

    squeeze  of ldpnet    rounded  C / 4 to a multiple of 8, as MobileNet rounds: the original's
                          quarter  C // 4
    pooling  of ldpnetv2  12x12    to 12 x 12 tokens whatever the grid of patches: the original's
                          2x2      the mean of each 2 x 2 patches

At the published sizes (widths that 32 divides, 24 x 24 patches) both forms are the same. Models
that this project made before it knew the originals' forms do not say which they have: it is quarter
and 2x2.
"""

import math
from dataclasses import dataclass
from typing import Literal

from mobilellama.config import ConfigError

Squeeze = Literal["rounded", "quarter"]
Pooling = Literal["12x12", "2x2"]
Rule = Literal["squeeze", "pooling"]

LEAST_WIDTH = 4  # a quarter of less would be no channel
TOKEN_SIDE = 12
"""Side of the original LDPv2's grid of tokens."""
_MULTIPLE = 8  # of which MobileNet makes its numbers of channels


@dataclass(frozen=True, kw_only=True)
class ProjectorRules:
    """The forms of one model; the defaults are those of models that do not say."""

    squeeze: Squeeze = "quarter"
    """Of ldpnet: rounded or quarter."""
    pooling: Pooling = "2x2"
    """Of ldpnetv2: 12x12 or 2x2."""


ORIGINAL = ProjectorRules(squeeze="rounded", pooling="12x12")
"""MobileVLM's own."""


def squeeze_width(width: int, squeeze: Squeeze) -> int:
    """Return the channels between LDP's two squeeze layers.

    The original's come from torchvision's InvertedResidual: ``_make_divisible(width // 4, 8)``.

    Args:
        width: of the projector.
        squeeze: the form.
    """
    quarter = width // 4
    if squeeze == "quarter":
        return quarter
    rounded = max(_MULTIPLE, (quarter + _MULTIPLE // 2) // _MULTIPLE * _MULTIPLE)
    return rounded if rounded >= 0.9 * quarter else rounded + _MULTIPLE


def squeeze_of(width: int, narrow: int) -> Squeeze:
    """Return the form under which a projector of a width has so many channels in its squeeze.

    Where neither has, the original's: whoever compares shapes says what is wrong.
    """
    is_quarter = narrow == squeeze_width(width, "quarter")
    return "quarter" if is_quarter and narrow != squeeze_width(width, "rounded") else "rounded"


def grid_side(patches: int) -> int:
    """Return the side of a square grid of so many patches.

    Raises:
        ConfigError: they make no square.
    """
    side = math.isqrt(max(patches, 0))
    remedy = "Choose a vision tower and image size that give such a grid, as 336 pixels by 14 do"
    if side < 1 or side * side != patches:
        raise ConfigError("patches of an image", patches, "must be a square number", remedy)
    return side
