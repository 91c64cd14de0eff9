"""The section engine."""

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.engines.config import EngineConfig


def test_a_bucket_of_no_elements_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^engine\.bucket_elements = 0: must be at least 1"):
        EngineConfig(bucket_elements=0)


def test_the_engine_is_the_papers_unless_another_is_asked_for() -> None:
    engine = EngineConfig()
    assert (engine.kind, engine.zero_stage, engine.precision) == ("deepspeed", 1, "auto")
    assert (engine.grad_accum_dtype, engine.communication_dtype) == ("fp32", "fp32")
