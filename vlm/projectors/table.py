"""The projectors, by name: the one list that configs, imports, exports and cards read.

To add one, write its class in a file beside this one and add its line here.
"""

import importlib
from typing import TYPE_CHECKING

from mobilellama.config import ConfigError, did_you_mean
from mobilellama.vlm.projectors.rules import ProjectorRules, grid_side

if TYPE_CHECKING:
    from mobilellama.vlm.projectors.projector import Projector  # which imports torch

PROJECTORS = {
    "ldpnet": "mobilellama.vlm.projectors.ldp:LDP",
    "ldpnetv2": "mobilellama.vlm.projectors.ldpv2:LDPv2",
    "mlp2x_gelu": "mobilellama.vlm.projectors.mlp:MLP",
}
"""The class, as MODULE:CLASS, by the value of ``projector.kind``, which is the published
``mm_projector_type``. A module is imported when its kind is asked for: a command line is read
without torch."""


def find_projector(kind: str) -> "type[Projector]":
    """Return the class of a kind.

    Raises:
        ConfigError: there is no such projector.
    """
    if kind not in PROJECTORS:
        rule = f"must be one of {', '.join(PROJECTORS)}"
        remedy = f"Choose one of them{did_you_mean(kind, PROJECTORS)}"
        raise ConfigError("projector", kind, rule, remedy)
    module, _, name = PROJECTORS[kind].partition(":")
    return getattr(importlib.import_module(module), name)


def build_projector(
    kind: str, *, vision_width: int, width: int, rules: ProjectorRules
) -> "Projector":
    """Build a projector; its weights are not initialised (``init_projector_parameter``).

    Args:
        kind: a key of ``PROJECTORS``.
        vision_width: channels of the tower's features.
        width: channels of the language model's embeddings.
        rules: what the kind leaves open.

    Raises:
        ConfigError: there is no such projector.
    """
    return find_projector(kind)(vision_width=vision_width, width=width, rules=rules)


def image_tokens(kind: str, patches: int, rules: ProjectorRules) -> int:
    """Return how many tokens one image becomes.

    Raises:
        ConfigError: there is no such projector, or the patches make no grid that it can take.
    """
    return find_projector(kind).token_side(grid_side(patches), rules) ** 2
