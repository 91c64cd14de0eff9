"""Small projectors and features to give them."""

import torch
from torch import Tensor

from mobilellama.vlm.projectors.projector import Projector, init_projector_parameter
from mobilellama.vlm.projectors.rules import (
    ProjectorRules,
)
from mobilellama.vlm.projectors.table import (
    PROJECTORS,
    build_projector,
    find_projector,
)

VISION_WIDTH, WIDTH = 12, 16
KINDS = sorted(PROJECTORS)
FORMER = ProjectorRules()
"""Of models that do not say."""


def initialised(
    kind: str,
    seed: int = 0,
    *,
    moved: bool = False,
    rules: ProjectorRules = FORMER,
    width: int = WIDTH,
) -> Projector:
    """A small projector with its first weights; moved off them so that norms count."""
    projector = build_projector(kind, vision_width=VISION_WIDTH, width=width, rules=rules)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in projector.named_parameters():
            parameter.copy_(init_projector_parameter(projector, name, seed))
            if moved:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return projector


def differing_rule(kind: str, rules: ProjectorRules, *, side: int, width: int) -> str | None:
    """The rule by which a projector computes something else than the original's, if one does."""
    its = find_projector(kind)
    return its.rule if its.differs_from_original(rules, side=side, width=width) else None


def features(images: int, patches: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(images, patches, VISION_WIDTH, generator=generator)
