"""The optimizer's fields: what is refused, and how."""

import math
from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.optimizers.config import OptimizerConfig


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("learning_rate", 0.0, "must be above 0"),
        ("learning_rate", math.nan, "must be above 0"),
        ("max_grad_norm", -1.0, "must be above 0"),
        ("eps", 0.0, "must be above 0"),
        ("beta1", 1.0, "must be at least 0 and below 1"),
        ("beta2", -0.1, "must be at least 0 and below 1"),
        ("weight_decay", -0.1, "must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: Any, rule: str) -> None:
    with pytest.raises(ConfigError, match=f"optimizer.{field} = {value}: {rule}"):
        OptimizerConfig(**{field: value})


def test_an_unknown_optimizer_is_refused_with_the_names_that_there_are() -> None:
    rule = r"optimizer.kind = adam: must be one of adamw, lion\. .*did you mean 'adamw'"
    with pytest.raises(ConfigError, match=rule):
        OptimizerConfig(kind="adam")
