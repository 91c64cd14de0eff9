"""The forms of a projector that no name tells apart."""

from mobilellama.vlm.projectors.rules import (
    squeeze_width,
)
from tests.vlm.helpers.plain_projectors import original_squeeze


def test_the_original_squeeze_is_rounded_as_torchvision_rounds() -> None:
    for width in range(4, 5000):
        assert squeeze_width(width, "rounded") == original_squeeze(width), width
        assert squeeze_width(width, "quarter") == width // 4
    assert [squeeze_width(width, "rounded") for width in (16, 40, 72, 80, 2048)] == [
        8, 16, 24, 24, 512,
    ]  # fmt: skip
