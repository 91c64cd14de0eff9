"""The command on presets: parameters, groups, length, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.vlm.main import main
from mobilellama.vlm.plan import tower_named

# Widths of a small model; the tower and the projector are the published ones.
SMALL = """
model: {vocab_size: 400, d_model: 64, n_layers: 3, n_heads: 4, d_ff: 96}
"""


@pytest.fixture
def base(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


def planned(capsys: pytest.CaptureFixture[str], base: str, *words: str) -> dict[str, Any]:
    fixed = ("--base", base, "--tower", "openai/clip-vit-base-patch32", "--gpu", "h100")
    assert main(["plan", *fixed, "--gpus", "8", *words, "--json", "true"]) == 0
    return json.loads(capsys.readouterr().out)


# By hand: embedding and head, then a layer, then the last norm; and the projector's perceptron from
# 768 to 64, with biases, and its convolution of 64 channels.
LANGUAGE = 2 * 400 * 64 + 3 * (4 * 64 * 64 + 3 * 64 * 96 + 2 * 64) + 64
PROJECTOR = (768 * 64 + 64) + (64 * 64 + 64) + (64 * 9 + 64)


def test_the_second_stage_trains_all_but_the_tower(
    base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--config", "mobilevlm_v2_1_7b_instruct", "--samples", "12800", "--projector.pooling")
    found = planned(capsys, base, *words, "12x12")
    assert found["parameters"]["projector"] == PROJECTOR
    assert found["parameters"]["language model"] == LANGUAGE
    assert found["frozen_parameters"] == found["parameters"]["tower"]
    assert found["hours"] * 3600 / found["step_s"] == pytest.approx(100)
    assert found["checkpoint_bytes"] == 12 * (LANGUAGE + PROJECTOR)


def test_the_first_stage_trains_the_projector(
    base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--config", "mobilevlm_1_7b_align", "--train.max_steps", "7", "--row_tokens", "500")
    found = planned(capsys, base, *words)
    trained = found["parameters"]["projector"]
    assert found["frozen_parameters"] == sum(found["parameters"].values()) - trained
    assert found["tokens_per_step"] == 256 * 500
    assert found["hours"] * 3600 / found["step_s"] == pytest.approx(7)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--row_tokens", "4096"), r"row_tokens = 4096: exceeds train.seq_len = 2048"),
        (("--base", "1_4b"), r"base = 1_4b: is neither a file"),
        (("--tower", "clip"), r"tower = clip: must be one of openai/clip-vit-large"),
    ],
)
def test_wrong_values_are_told(
    words: tuple[str, ...], said: str, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ("--config", "mobilevlm_1_7b_align", "--samples", "9", "--gpus", "8", "--gpu", "h100")
    with pytest.raises(ConfigError, match=said):
        main(["plan", "--base", base, *fixed, *words])


def test_the_published_tower_is_known() -> None:
    assert tower_named("openai/clip-vit-large-patch14-336")["image_size"] == 336
