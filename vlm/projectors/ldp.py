"""ldpnet: Linear GELU Linear, then two depthwise-separable blocks (MobileVLM).

Shape suffixes as in projector.py.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilellama.config import require_at_least
from mobilellama.vlm.projectors.projector import Projector, linear_keys
from mobilellama.vlm.projectors.rules import (
    LEAST_WIDTH,
    ORIGINAL,
    ProjectorRules,
    Squeeze,
    squeeze_width,
)

_BLOCK_KEYS = {
    "depthwise.weight": "0.0.weight",
    "norm1.weight": "0.1.weight",
    "norm1.bias": "0.1.bias",
    "squeeze.reduce.weight": "1.fc1.weight",
    "squeeze.reduce.bias": "1.fc1.bias",
    "squeeze.expand.weight": "1.fc2.weight",
    "squeeze.expand.bias": "1.fc2.bias",
    "pointwise.weight": "2.0.weight",
    "norm2.weight": "2.1.weight",
    "norm2.bias": "2.1.bias",
}


class ChannelNorm(nn.Module):
    """LayerNorm over the channels at each pixel of a (B, D, S, S) map (timm's LayerNormAct2d)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x_BDSS: Tensor) -> Tensor:
        """Return the normalised map."""
        x_BSSD = x_BDSS.permute(0, 2, 3, 1)
        x_BSSD = F.layer_norm(x_BSSD, self.weight.shape, self.weight, self.bias, self.eps)
        return x_BSSD.permute(0, 3, 1, 2)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate that sees the mean of all (arXiv 1709.01507, as MobileNetV3)."""

    def __init__(self, width: int, narrow: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, narrow, 1)
        self.expand = nn.Conv2d(narrow, width, 1)

    def forward(self, x_BDSS: Tensor) -> Tensor:
        """Return the scaled map."""
        mean_BD11 = x_BDSS.mean(dim=(2, 3), keepdim=True)
        return x_BDSS * F.hardsigmoid(self.expand(F.relu(self.reduce(mean_BD11))))


class SeparableBlock(nn.Module):
    """Depthwise 3x3, norm, Hardswish, squeeze-excitation, pointwise, norm; residual at stride 1.

    MobileNetV3's inverted residual without its expansion. The paper's equation 3 shows neither
    Hardswish nor squeeze-excitation; the published code and weights have both.
    """

    def __init__(self, width: int, *, stride: int, squeeze: Squeeze) -> None:
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(
            width, width, 3, stride=stride, padding=1, groups=width, bias=False
        )
        self.norm1 = ChannelNorm(width)
        self.squeeze = SqueezeExcitation(width, squeeze_width(width, squeeze))
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.norm2 = ChannelNorm(width)

    def forward(self, x_BDSS: Tensor) -> Tensor:
        """Return the map, its side divided by the stride."""
        y_BDSS = F.hardswish(self.norm1(self.depthwise(x_BDSS)))
        y_BDSS = self.norm2(self.pointwise(self.squeeze(y_BDSS)))
        return x_BDSS + y_BDSS if self.stride == 1 else y_BDSS


class LDP(Projector):
    """The lightweight downsample projector (arXiv 2312.16886, section 3.4): two blocks."""

    # mlp.0 and mb_block.0 are identities in the original, which have no weights.
    published_keys: ClassVar[Mapping[str, str] | None] = {
        **linear_keys({"mlp.0": "model.mlp.1", "mlp.2": "model.mlp.3"}),
        **{
            f"blocks.{block}.{ours}": f"model.mb_block.{block + 1}.block.{theirs}"
            for block in (0, 1)
            for ours, theirs in _BLOCK_KEYS.items()
        },
    }
    rule = "squeeze"
    is_mobilevlms = True
    has_published_rate = False  # the first version's code has no rate of the projector's own

    def __init__(self, *, vision_width: int, width: int, rules: ProjectorRules) -> None:
        require_at_least("projector width", width, LEAST_WIDTH)
        super().__init__(vision_width=vision_width, width=width, rules=rules)
        self.blocks = nn.Sequential(
            SeparableBlock(width, stride=1, squeeze=rules.squeeze),
            SeparableBlock(width, stride=2, squeeze=rules.squeeze),
        )

    @staticmethod
    def token_side(side: int, rules: ProjectorRules) -> int:
        """Return half the side, rounded up: what a stride of 2 leaves of it."""
        del rules
        return (side + 1) // 2

    def forward(self, features: Tensor) -> Tensor:
        """Return the image tokens, (B, T, D)."""
        return self.blocks(self.grid(features)).flatten(2).transpose(1, 2)

    @staticmethod
    def differs_from_original(rules: ProjectorRules, *, side: int, width: int) -> bool:
        """Whether the squeeze has another width than the original's."""
        del side
        return squeeze_width(width, rules.squeeze) != squeeze_width(width, ORIGINAL.squeeze)
