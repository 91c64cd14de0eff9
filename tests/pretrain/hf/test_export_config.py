"""The fields of an export."""

from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.hf.export_config import Config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"private": True}, "private = true: nothing is pushed"),
        ({"push": "no-owner"}, "push = no-owner: must name the owner"),
        ({"push": "a/b--c"}, "push = a/b--c: is not a name that the Hub allows"),
        ({"max_shard_size_gb": 0}, "max_shard_size_gb = 0: must be at least"),
    ],
)
def test_fields_that_break_a_rule_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(checkpoint="c", output="o", **fields)
    assert str(caught.value).startswith(message)


def test_the_title_is_the_name_else_the_repository_else_the_folder() -> None:
    assert Config(checkpoint="c", output="some/here").title == "here"
    assert Config(checkpoint="c", output="here", push="me/model").title == "me/model"
    assert Config(checkpoint="c", output="here", push="me/model", name="Mine").title == "Mine"


def test_weights_are_bf16_unless_another_dtype_is_asked_for() -> None:
    assert Config(checkpoint="c", output="o").weights_dtype == "bf16"
    assert Config(checkpoint="c", output="o", dtype="fp32").weights_dtype == "fp32"


def test_models_below_a_billion_parameters_are_checked_unless_asked_otherwise() -> None:
    def checks(check: bool | None, parameters: int) -> bool:
        return Config(checkpoint="c", output="o", check=check).checks(parameters)

    assert checks(None, 999_999_999) and not checks(None, 1_000_000_000)
    assert checks(True, 3_000_000_000) and not checks(False, 1)
