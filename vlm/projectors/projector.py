"""What every projector is: from a tower's patch features to image tokens of the model's width.

Shape suffixes: B images, P patches, T image tokens, D width of the language model, S grid side.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from mobilellama.pretrain.model import named_generator
from mobilellama.vlm.projectors.rules import ProjectorRules, Rule, grid_side


class Projector(nn.Module):
    """A projector; it begins with a two-layer perceptron on each patch.

    ``forward`` takes the tower's features without class token, (B, P, vision_width), row by row
    of the grid, and gives (B, T, width). A kind is a subclass in a file of its own, and a line of
    table.py.
    """

    published_keys: ClassVar[Mapping[str, str] | None] = None
    """Published name of each weight after ``model.mm_projector.``, by ours. None: no other project
    has this kind, so that it is written in our form alone."""
    rule: ClassVar[Rule | None] = None
    """The field of ``ProjectorRules`` that this kind obeys."""
    is_mobilevlms: ClassVar[bool] = False
    """Whether it is of the MobileVLM family; the model's card says so."""
    has_published_rate: ClassVar[bool] = True
    """Whether the published config.json has the learning rate of this kind."""

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

    @staticmethod
    def differs_from_original(rules: ProjectorRules, *, side: int, width: int) -> bool:
        """Whether a model's rules make it compute something else than the original's.

        Args:
            rules: the model's.
            side: of the grid of patches.
            width: of the projector.
        """
        del rules, side, width
        return False


def linear_keys(prefixes: Mapping[str, str]) -> dict[str, str]:
    """Return the published names of weight and bias of some layers.

    Args:
        prefixes: the layers' published names, by ours.
    """
    return {
        f"{ours}.{leaf}": f"{theirs}.{leaf}"
        for ours, theirs in prefixes.items()
        for leaf in ("weight", "bias")
    }


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
    weight = layer.get_parameter("weight")
    if weight.ndim == 1:  # a norm's, which has no inputs to sum over
        return torch.ones(shape) if leaf == "weight" else torch.zeros(shape)
    fan_in = weight.shape[1:].numel()
    generator = named_generator(seed, name)
    return (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(fan_in)
