"""The fields of 'sft merge'."""

from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.sft.export.merge_config import Config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "checkpoint = null: give either it, or adapter and base"),
        ({"checkpoint": "r", "adapter": "a", "base": "b"}, "checkpoint = r: give either it, or"),
        ({"adapter": "a"}, "base = null: must be given: a holds no weights of its base"),
        ({"checkpoint": "r", "max_shard_size_gb": 0}, "max_shard_size_gb = 0: must be at least"),
    ],
)
def test_fields_that_break_a_rule_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(output="o", **fields)
    assert str(caught.value).startswith(message)
