"""Optimizers described by what a run stored of them."""

from dataclasses import asdict

import pytest

from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.optimizers.kind import optimizer_text
from mobilellama.vlm.config import TwoRates

ADAMW = "AdamW, betas 0.9 and 0.95, eps 1e-08, weight decay 0.1, gradient norm clipped at 1"


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        (asdict(OptimizerConfig()), ADAMW),
        ({n: v for n, v in asdict(OptimizerConfig()).items() if n != "kind"}, ADAMW),
        (asdict(TwoRates(projector_learning_rate=1e-3)), ADAMW),
        (
            asdict(OptimizerConfig(kind="lion", beta2=0.99, weight_decay=1.0)),
            "Lion, betas 0.9 and 0.99, weight decay 1, gradient norm clipped at 1",
        ),
    ],
    ids=["adamw", "before there were kinds", "two rates", "lion"],
)
def test_a_stored_section_is_one_line(stored: dict[str, object], text: str) -> None:
    assert optimizer_text(stored) == text
