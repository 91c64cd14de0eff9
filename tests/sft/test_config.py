"""The config of finetuning: its own values, and what is refused."""

from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.sft.config import FinetuneConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0.0}, "train.epochs = 0.0: must be above 0 and at most 10,000"),
        ({"epochs": float("nan")}, "train.epochs = nan: must be above 0"),
        ({"epochs": 10_001.0}, "train.epochs = 10001.0: must be above 0 and at most 10,000"),
        ({"max_steps": 0}, "train.max_steps = 0: must be at least 1"),
        ({"micro_batch_size": 0}, "train.micro_batch_size = 0: must be at least 1"),
    ],
)
def test_a_length_that_is_none_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FinetuneConfig(**fields)
    assert str(caught.value).startswith(message)


def test_epochs_decide_unless_steps_are_given() -> None:
    assert (FinetuneConfig().epochs, FinetuneConfig().max_steps) == (3.0, None)
    assert FinetuneConfig(max_steps=5).max_steps == 5
