"""The perceptron alone."""

import torch

from mobilellama.vlm.projectors.mlp import MLP
from mobilellama.vlm.projectors.rules import ProjectorRules


def test_every_patch_becomes_a_token_of_its_own() -> None:
    torch.manual_seed(0)
    projector = MLP(vision_width=6, width=8, rules=ProjectorRules())
    features = torch.randn(2, 5, 6)
    tokens = projector(features)
    assert tokens.shape == (2, 5, 8)
    weights = dict(projector.named_parameters())
    alone = torch.nn.functional.gelu(
        features[1, 3] @ weights["mlp.0.weight"].T + weights["mlp.0.bias"]
    )
    torch.testing.assert_close(
        tokens[1, 3], alone @ weights["mlp.2.weight"].T + weights["mlp.2.bias"]
    )


def test_the_published_names_are_those_of_the_two_layers() -> None:
    assert MLP.published_keys == {
        "mlp.0.weight": "0.weight", "mlp.0.bias": "0.bias",
        "mlp.2.weight": "2.weight", "mlp.2.bias": "2.bias",
    }  # fmt: skip
    assert MLP.token_side(24, ProjectorRules()) == 24
