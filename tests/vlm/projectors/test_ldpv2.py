"""LDPv2: its pooling."""

import pytest
import torch

from mobilellama.config import ConfigError
from mobilellama.vlm.projectors.rules import (
    ORIGINAL,
)
from tests.vlm.helpers.small_projectors import (
    FORMER,
    features,
    initialised,
)


@pytest.mark.parametrize("side", [4, 12, 16, 24, 27, 32, 36])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_original_pooling_is_torchs_adaptive_mean(side: int, dtype: torch.dtype) -> None:
    projector = initialised("ldpnetv2", moved=True, rules=ORIGINAL).to(dtype)
    pool = torch.nn.AdaptiveAvgPool2d((12, 12))
    with torch.no_grad():
        images = features(2, side * side).to(dtype)
        pooled = pool(projector.grid(images))
        position = projector.get_submodule("position")
        expected = (position(pooled) + pooled).flatten(2).transpose(1, 2)
        assert torch.equal(projector(images), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_at_the_published_grid_both_poolings_are_the_same_bit_for_bit(dtype: torch.dtype) -> None:
    first, second = (
        initialised("ldpnetv2", moved=True, rules=rules).to(dtype) for rules in (FORMER, ORIGINAL)
    )
    with torch.no_grad():
        images = features(2, 576).to(dtype)
        assert torch.equal(first(images), second(images))


def test_an_odd_grid_is_refused_by_the_forward_pass_too() -> None:
    with pytest.raises(ConfigError, match="an even side for the pooling 2x2, but its side is 3"):
        initialised("ldpnetv2")(features(1, 9))
