"""LDP: the width of its squeeze shows its form."""

from mobilellama.vlm.projectors.rules import (
    ORIGINAL,
    squeeze_of,
    squeeze_width,
)
from tests.vlm.helpers.small_projectors import FORMER, differing_rule, initialised


def test_a_squeezes_width_shows_its_form() -> None:
    for width in range(4, 500):
        forms = {squeeze_width(width, form): form for form in ("rounded", "quarter")}
        for narrow in forms:
            assert squeeze_width(width, squeeze_of(width, narrow)) == narrow
        differs = {differing_rule("ldpnet", its, side=6, width=width)
                   for its in (FORMER, ORIGINAL)}  # fmt: skip
        assert differs == ({None} if len(forms) == 1 else {None, "squeeze"})
    assert squeeze_of(48, 7) == "rounded", "of neither form"


def test_a_rounded_squeeze_has_its_channels() -> None:
    shapes = {
        rules.squeeze: initialised("ldpnet", rules=rules, width=48)
        .get_parameter("blocks.1.squeeze.reduce.weight")
        .shape
        for rules in (FORMER, ORIGINAL)
    }
    assert shapes == {"quarter": (12, 48, 1, 1), "rounded": (16, 48, 1, 1)}
