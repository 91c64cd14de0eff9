"""The projectors: parameter counts as published, and outputs against a plain second writing."""

import numpy as np
import pytest
import torch

from mobilellama.config import ConfigError
from mobilellama.vlm.projectors.rules import (
    ORIGINAL,
    Pooling,
    ProjectorRules,
)
from mobilellama.vlm.projectors.table import (
    PROJECTORS,
    build_projector,
    image_tokens,
)
from tests.vlm.helpers.plain_projectors import plain
from tests.vlm.helpers.small_projectors import (
    FORMER,
    KINDS,
    WIDTH,
    differing_rule,
    features,
    initialised,
)


@pytest.mark.parametrize(
    ("kind", "width", "parameters"),
    [
        ("ldpnet", 2048, 18_936_832),
        ("ldpnet", 2560, 28_913_920),
        ("ldpnet", 4096, 71_428_096),
        ("ldpnetv2", 2048, 6_316_032),
        ("ldpnetv2", 2560, 9_205_760),
        ("ldpnetv2", 4096, 21_020_672),
        ("mlp2x_gelu", 2048, 1024 * 2048 + 2048 + 2048 * 2048 + 2048),
    ],
)
@pytest.mark.parametrize("rules", [FORMER, ORIGINAL])
def test_parameter_counts_are_those_published(
    kind: str, width: int, parameters: int, rules: ProjectorRules
) -> None:
    with torch.device("meta"):
        projector = build_projector(kind, vision_width=1024, width=width, rules=rules)
    assert sum(parameter.numel() for parameter in projector.parameters()) == parameters
    assert differing_rule(kind, rules, side=24, width=width) is None


def test_names_and_shapes_are_the_published_ones_renamed() -> None:
    with torch.device("meta"):
        v1, v2, mlp = (
            {
                name: tuple(value.shape)
                for name, value in build_projector(kind, vision_width=1024, width=64, rules=FORMER)
                .state_dict()
                .items()
            }
            for kind in ("ldpnet", "ldpnetv2", "mlp2x_gelu")
        )
    perceptron = {
        "mlp.0.weight": (64, 1024),
        "mlp.0.bias": (64,),
        "mlp.2.weight": (64, 64),
        "mlp.2.bias": (64,),
    }
    block = {
        "depthwise.weight": (64, 1, 3, 3),
        "norm1.weight": (64,),
        "norm1.bias": (64,),
        "squeeze.reduce.weight": (16, 64, 1, 1),
        "squeeze.reduce.bias": (16,),
        "squeeze.expand.weight": (64, 16, 1, 1),
        "squeeze.expand.bias": (64,),
        "pointwise.weight": (64, 64, 1, 1),
        "norm2.weight": (64,),
        "norm2.bias": (64,),
    }
    blocks = {f"blocks.{i}.{name}": shape for i in (0, 1) for name, shape in block.items()}
    assert mlp == perceptron
    assert v1 == perceptron | blocks
    assert v2 == perceptron | {"position.weight": (64, 1, 3, 3), "position.bias": (64,)}


@pytest.mark.parametrize(
    ("rules", "side"),
    [(FORMER, side) for side in (24, 6, 2)] + [(ORIGINAL, side) for side in (24, 27, 16, 7, 4)],
)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_equal_those_of_the_plain_formulas(
    kind: str, rules: ProjectorRules, side: int
) -> None:
    projector = initialised(kind, moved=True, rules=rules)
    weights = {name: value.double().numpy() for name, value in projector.state_dict().items()}
    images = features(2, side * side)
    with torch.no_grad():
        ours = projector(images).numpy()
    assert ours.shape == (2, image_tokens(kind, side * side, rules), WIDTH)
    assert ours.std() > 0.1
    for image, tokens in zip(images.double().numpy(), ours, strict=True):
        expected = plain(kind, image, weights, pooling=rules.pooling)
        np.testing.assert_allclose(tokens, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_both_rules_are_one_model_at_the_published_sizes_bit_for_bit(kind: str) -> None:
    images, made = features(1, 24 * 24), []
    for rules in (FORMER, ORIGINAL):
        projector = initialised(kind, moved=True, rules=rules, width=32)
        tokens = projector(images)
        tokens.square().sum().backward()
        made.append([tokens, *[parameter.grad for parameter in projector.parameters()]])
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind: str) -> None:
    projector = initialised(kind, moved=True)
    # Squared: the sum of a norm's outputs is the same whatever goes in.
    projector(features(1, 16)).square().sum().backward()
    for name, parameter in projector.named_parameters():
        assert parameter.grad is not None and bool((parameter.grad != 0).any()), name


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_and_autocast_stay_near_fp32(kind: str) -> None:
    projector, images = initialised(kind, moved=True), features(2, 16)
    expected = projector(images).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = projector(images)
    under_autocast.float().sum().backward()
    assert all(parameter.grad is not None for parameter in projector.parameters())
    in_bf16 = projector.bfloat16()(images.bfloat16())
    assert in_bf16.dtype == torch.bfloat16
    for output in (under_autocast, in_bf16):
        # Eight bits of mantissa through some ten roundings.
        error = (output.detach().float() - expected).abs().mean() / expected.abs().mean()
        assert error.item() < 0.03


@pytest.mark.parametrize(
    ("kind", "pooling", "patches", "tokens"),
    [
        ("ldpnet", "12x12", 576, 144),
        ("ldpnetv2", "12x12", 576, 144),
        ("ldpnetv2", "2x2", 576, 144),
        ("ldpnetv2", "12x12", 256, 144),
        ("ldpnetv2", "2x2", 256, 64),
        ("ldpnetv2", "12x12", 729, 144),
        ("ldpnetv2", "12x12", 49, 144),
        ("mlp2x_gelu", "12x12", 576, 576),
        ("ldpnet", "2x2", 16, 4),
        ("ldpnet", "12x12", 729, 196),
        ("mlp2x_gelu", "2x2", 729, 729),
    ],
)
def test_token_counts_follow_from_the_patches(
    kind: str, pooling: Pooling, patches: int, tokens: int
) -> None:
    assert image_tokens(kind, patches, ProjectorRules(pooling=pooling)) == tokens


@pytest.mark.parametrize(("kind", "rule"), [("ldpnetv2", "pooling"), ("mlp2x_gelu", None)])
def test_another_grid_than_the_published_tells_the_poolings_apart(
    kind: str, rule: str | None
) -> None:
    assert differing_rule(kind, FORMER, side=16, width=64) == rule
    assert differing_rule(kind, ORIGINAL, side=16, width=64) is None


@pytest.mark.parametrize(
    ("kind", "patches", "message"),
    [
        ("ldpnet", 575, "patches of an image = 575: must be a square number. Choose"),
        ("mlp2x_gelu", 0, "patches of an image = 0: must be a square number. Choose"),
        (
            "ldpnetv2",
            729,
            "patches of an image = 729: must be a square with an even side for the pooling 2x2, "
            "but its side is 27. Choose the pooling 12x12, or",
        ),
        (
            "ldpnet2",
            576,
            f"projector = ldpnet2: must be one of {', '.join(PROJECTORS)}. Choose one of them; "
            "did you mean 'ldpnetv2'?",
        ),
    ],
)
def test_what_makes_no_tokens_is_refused(kind: str, patches: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        image_tokens(kind, patches, FORMER)
    assert str(caught.value).startswith(message)
