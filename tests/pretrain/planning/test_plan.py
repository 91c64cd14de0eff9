"""The command against the paper, on presets; what it refuses; its exit code."""

import json
from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.main import main


def planned(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    assert main(["plan", *words, "--json", "true"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("preset", "mfu", "days"), [("mobilellama_1_4b", 0.542, 5.0), ("mobilellama_2_7b", 0.483, 11.1)]
)
def test_160_a100s_take_the_paper_s_days(
    preset: str, mfu: float, days: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """MobileVLM, arXiv 2312.16886, section 4.1: 18,800 and 8,500 tokens/s a GPU, 1.3T tokens."""
    words = ("--config", preset, "--gpus", "160", "--gpu", "a100-80g", "--mfu", str(mfu))
    found = planned(capsys, *words)
    assert found["hours"] / 24 == pytest.approx(days, abs=0.05)
    assert found["fits"]
    assert found["tokens_per_step"] == 5_242_880


def test_a_run_that_does_not_fit_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--config", "mobilellama_2_7b", "--gpus", "8", "--gpu", "a100-40g")
    found = planned(capsys, *words, code=1)
    size = found["largest_micro_batch_checkpointing"]
    flags = f"--train.micro_batch_size {size} --train.gradient_checkpointing true"
    assert flags in found["remedies"]
    assert planned(capsys, *words, *flags.split())["fits"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpus", "0"), "gpus = 0: must be at least 1"),
        (("--gpus", "8", "--mfu", "54"), "mfu = 54.0: must be at most 1"),
        (("--gpus", "8", "--mfu", "0"), "mfu = 0.0: must be above 0"),
        (("--gpus", "8", "--reserve_gib", "-1"), "reserve_gib = -1.0: must be at least 0"),
        (("--gpus", "7"), "train.global_batch_size = 2560: must be a multiple"),
    ],
)
def test_wrong_values_are_told(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        main(["plan", "--config", "mobilellama_1_4b", "--gpu", "h100", *words])
