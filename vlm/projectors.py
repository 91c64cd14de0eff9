"""Projectors: from a vision tower's patch features to image tokens of the language model's width.

    ldpnet       LDP    Linear GELU Linear, two depthwise-separable blocks   (MobileVLM)
    ldpnetv2     LDPv2  Linear GELU Linear, mean, positional convolution     (MobileVLM V2)
    mlp2x_gelu   MLP    Linear GELU Linear                                   (LLaVA-1.5)

The keys are the published config's ``mm_projector_type``, and every weight has the shape of the
published one, so that import and export only rename. 576 patches become 144 tokens of LDP and
LDPv2; what other sizes become is in projector_rules.py.

Shape suffixes: B images, P patches, T image tokens, D width of the language model, S grid side.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilellama.config import ConfigError, did_you_mean, require_at_least
from mobilellama.pretrain.model import named_generator
from mobilellama.vlm.projector_rules import (
    LEAST_WIDTH,
    TOKEN_SIDE,
    ProjectorRules,
    Squeeze,
    squeeze_width,
)


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


class Projector(nn.Module):
    """What all three begin with: a two-layer perceptron on each patch.

    ``forward`` takes the tower's features without class token, (B, P, vision_width), row by row
    of the grid, and gives (B, T, width).
    """

    def __init__(self, *, vision_width: int, width: int, rules: ProjectorRules) -> None:
        """Build the layers; their weights are not initialised (``init_projector_parameter``).

        Args:
            vision_width: channels of the tower's features.
            width: channels of the language model's embeddings.
            rules: what the kind leaves open.
        """
        super().__init__()
        self.rules = rules
        self.mlp = nn.Sequential(nn.Linear(vision_width, width), nn.GELU(), nn.Linear(width, width))

    def grid(self, features: Tensor) -> Tensor:
        """Return the perceptron's output as a map, (B, D, S, S)."""
        side = grid_side(features.shape[1])
        # As copied, for gradients of convolutions in the order that DDP's buckets have.
        return self.mlp(features).transpose(1, 2).unflatten(2, (side, side)).contiguous()

    @staticmethod
    def token_side(side: int, rules: ProjectorRules) -> int:
        """Return the side of the grid of tokens that a grid of patches becomes."""
        del rules
        return side


class LDP(Projector):
    """The lightweight downsample projector (arXiv 2312.16886, section 3.4): two blocks."""

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


class LDPv2(Projector):
    """LDP's successor (arXiv 2402.03766, section 3.3): means, then positions by convolution."""

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
            rule = f"must be a square with a side that 2 divides, not {side}, where pooling is 2x2"
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


class MLP(Projector):
    """The perceptron alone: as many tokens as patches (LLaVA-1.5, arXiv 2310.03744)."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the image tokens, (B, P, D)."""
        return self.mlp(features)


PROJECTORS: dict[str, type[Projector]] = {"ldpnet": LDP, "ldpnetv2": LDPv2, "mlp2x_gelu": MLP}
"""By the published ``mm_projector_type``."""


def build_projector(
    kind: str, *, vision_width: int, width: int, rules: ProjectorRules
) -> Projector:
    """Build a projector; its weights are not initialised (``init_projector_parameter``).

    Args:
        kind: a key of ``PROJECTORS``.
        vision_width: channels of the tower's features.
        width: channels of the language model's embeddings.
        rules: what the kind leaves open.

    Raises:
        ConfigError: there is no such projector.
    """
    return _projector(kind)(vision_width=vision_width, width=width, rules=rules)


def image_tokens(kind: str, patches: int, rules: ProjectorRules) -> int:
    """Return how many tokens one image becomes.

    Raises:
        ConfigError: there is no such projector, or the patches make no grid that it can take.
    """
    return _projector(kind).token_side(grid_side(patches), rules) ** 2


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


def init_projector_parameter(projector: Projector, name: str, seed: int) -> Tensor:
    """Return a parameter's first value in fp32: a function of its name, its layer and the seed.

    Norms are 1 and 0. All else is uniform within 1 / sqrt(fan-in) of 0: torch's own default for
    linear layers and convolutions (kaiming-uniform with a = sqrt(5), and the bias's bound). The
    original sets none of its own and so has it: torchvision's kaiming-normal is in the constructor
    of its whole MobileNetV3, not in the block that LDP borrows.

    Args:
        projector: gives the layer's kind and shapes; it may be on ``meta``.
        name: of the parameter in the projector, such as ``blocks.0.depthwise.weight``.
        seed: of the run.
    """
    layer_name, _, leaf = name.rpartition(".")
    layer = projector.get_submodule(layer_name)
    shape = projector.get_parameter(name).shape
    if isinstance(layer, ChannelNorm):
        return torch.ones(shape) if leaf == "weight" else torch.zeros(shape)
    fan_in = layer.get_parameter("weight").shape[1:].numel()
    generator = named_generator(seed, name)
    return (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(fan_in)


def _projector(kind: str) -> type[Projector]:
    if kind not in PROJECTORS:
        rule = f"must be one of {', '.join(PROJECTORS)}"
        remedy = f"Choose one of them{did_you_mean(kind, PROJECTORS)}"
        raise ConfigError("projector", kind, rule, remedy)
    return PROJECTORS[kind]
