"""First values of a projector's parameters."""

import math

import pytest
import torch

from mobilellama.vlm.projectors.projector import init_projector_parameter
from mobilellama.vlm.projectors.rules import (
    ORIGINAL,
)
from mobilellama.vlm.projectors.table import (
    build_projector,
)
from tests.vlm.helpers.small_projectors import FORMER, KINDS, VISION_WIDTH, WIDTH, initialised


@pytest.mark.parametrize("kind", KINDS)
def test_first_values_depend_on_name_and_seed_alone(kind: str) -> None:
    first, again, other = (initialised(kind, seed).state_dict() for seed in (0, 0, 1))
    with torch.device("meta"):
        on_meta = build_projector(kind, vision_width=VISION_WIDTH, width=WIDTH, rules=FORMER)
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert torch.equal(value, init_projector_parameter(on_meta, name, 0))
        assert torch.equal(value, other[name]) == (".norm" in name), name
    if kind == "ldpnet":
        assert not torch.equal(
            first["blocks.0.pointwise.weight"], first["blocks.1.pointwise.weight"]
        )


def test_first_values_are_spread_as_torch_spreads_its_own() -> None:
    torch.manual_seed(0)
    projector = build_projector(
        "ldpnet", vision_width=96, width=256, rules=ORIGINAL
    )  # with torch's own values
    fan_in = {
        "mlp.0": 96,
        "mlp.2": 256,
        "blocks.0.depthwise": 9,
        "blocks.0.squeeze.reduce": 256,
        "blocks.0.squeeze.expand": 64,
        "blocks.1.pointwise": 256,
    }
    for name, torch_value in projector.named_parameters():
        ours = init_projector_parameter(projector, name, 0)
        assert ours.dtype == torch.float32 and ours.shape == torch_value.shape
        layer = name.rpartition(".")[0]
        if ".norm" in name:
            assert torch.equal(ours, torch_value)
        elif layer in fan_in:
            bound = 1 / math.sqrt(fan_in[layer])
            for value in (ours, torch_value.detach()):
                assert 0.9 * bound < float(value.abs().max()) <= bound, name
            # A uniform variable within +-b has the deviation b / sqrt(3).
            assert float(ours.std()) == pytest.approx(bound / math.sqrt(3), rel=0.12), name
