"""The fields of an export."""

from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from tests.vlm.helpers.exporting import export


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "mobilevlm", "--push", "a/b"), "push = a/b: needs --format hf"),
        (("--safetensors", "true"), "safetensors = true: has no effect with --format hf"),
        (("--vision_tower", "openai/x"), "vision_tower = openai/x: has no effect"),
        (("--base", "mine"), "base = mine: must name the owner"),
        (("--private", "true"), "private = true: nothing is pushed"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    ours: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(ours, tmp_path / "out", *arguments)
