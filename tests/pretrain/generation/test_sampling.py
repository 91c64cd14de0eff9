"""The settings of a draw: each out of its range is named."""

from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.generation.sampling import Sampling


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1.0), ("temperature", float("nan")), ("top_p", 0.0), ("top_p", 1.1),
     ("top_k", 0), ("repetition_penalty", 0.0)],
)  # fmt: skip
def test_a_wrong_setting_is_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{field} = "):
        Sampling(**{field: value})


def test_values_at_the_bounds_are_taken_and_the_default_draws_nothing() -> None:
    assert Sampling().temperature == 0.0
    Sampling(temperature=0.0, top_p=1.0, top_k=1, repetition_penalty=1e-6)
