"""What a plan of vision-language training must be told."""

from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.vlm.config import ProjectorConfig, TuneConfig
from mobilellama.vlm.plan_config import Config


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"samples": None}, r"samples = null: must be given"),
        ({"samples": 0}, r"samples = 0: must be at least 1"),
        ({"row_tokens": 0}, r"row_tokens = 0: must be at least 1"),
        ({"projector": ProjectorConfig()}, r"projector.kind = null: must be given"),
        ({"gpus": 0}, r"gpus = 0: must be at least 1"),
    ],
)
def test_what_is_missing_is_told(fields: dict[str, Any], said: str) -> None:
    given = {"samples": 9, "gpus": 8, "projector": ProjectorConfig(kind="ldpnet")} | fields
    with pytest.raises(ConfigError, match=said):
        Config(base="mobilellama_1_4b", gpu="h100", **given)


def test_steps_stand_for_samples() -> None:
    config = Config(
        base="mobilellama_1_4b", gpu="h100", gpus=8, projector=ProjectorConfig(kind="ldpnet"),
        train=TuneConfig(max_steps=5),
    )  # fmt: skip
    assert config.samples is None
