"""ldpnetv2: Linear GELU Linear, mean, positional convolution (MobileVLM V2).

Shape suffixes as in projector.py.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from mobilellama.config import ConfigError
from mobilellama.vlm.projectors.projector import Projector, linear_keys
from mobilellama.vlm.projectors.rules import TOKEN_SIDE, ProjectorRules


class LDPv2(Projector):
    """LDP's successor (arXiv 2402.03766, section 3.3): means, then positions by convolution."""

    published_keys = linear_keys(
        {"mlp.0": "mlp.mlp.0", "mlp.2": "mlp.mlp.2", "position": "peg.peg.0"}
    )
    rule = "pooling"
    is_mobilevlms = True

    def __init__(self, *, vision_width: int, width: int, rules: ProjectorRules) -> None:
        super().__init__(vision_width=vision_width, width=width, rules=rules)
        self.position = nn.Conv2d(width, width, 3, padding=1, groups=width)

    @staticmethod
    def token_side(side: int, rules: ProjectorRules) -> int:
        """Return 12, or half the side.

        Raises:
            ConfigError: 2 does not divide it.
        """
        if rules.pooling == "12x12":
            return TOKEN_SIDE
        if side % 2:
            rule = f"must be a square with an even side for the pooling 2x2, but its side is {side}"
            remedy = "Choose the pooling 12x12, or a vision tower that gives such a grid"
            raise ConfigError("patches of an image", side * side, rule, remedy)
        return side // 2

    def forward(self, features: Tensor) -> Tensor:
        """Return the image tokens, (B, T, D)."""
        x_BDSS = self.grid(features)
        side = self.token_side(x_BDSS.shape[-1], self.rules)
        # At the published 24 x 24 patches both means are the same bits, and the gradient of the
        # adaptive one has no deterministic kernel on GPUs (distributed.deterministic).
        if x_BDSS.shape[-1] == 2 * side:
            x_BDSS = F.avg_pool2d(x_BDSS, 2)
        else:
            x_BDSS = F.adaptive_avg_pool2d(x_BDSS, side)
        return (self.position(x_BDSS) + x_BDSS).flatten(2).transpose(1, 2)

    @staticmethod
    def differs_from_original(rules: ProjectorRules, *, side: int, width: int) -> bool:
        """Whether patches become other tokens; 24 x 24 become 12 x 12 under either rule."""
        del width
        return rules.pooling == "2x2" and side != 2 * TOKEN_SIDE
