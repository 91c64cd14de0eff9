"""The section engine."""

from typing import Any

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


def test_fields_without_effect_are_said_by_name_value_and_reason() -> None:
    changed: dict[str, Any] = {
        "grad_accum_dtype": "bf16",
        "communication_dtype": "bf16",
        "bucket_elements": 7,
    }
    assert EngineConfig(kind="ddp", **changed).ignored("bf16") == [
        "engine.grad_accum_dtype = bf16 has no effect: engine.kind is ddp",
        "engine.communication_dtype = bf16 has no effect: engine.kind is ddp",
        "engine.bucket_elements = 7 has no effect: engine.kind is ddp",
    ]
    assert [text.split()[0] for text in EngineConfig(**changed).ignored("fp32")] == [
        "engine.grad_accum_dtype", "engine.communication_dtype",
    ]  # fmt: skip
    assert EngineConfig(zero_stage=2, **changed).ignored("bf16") == []
    for kind in ("ddp", "deepspeed"):
        assert (
            EngineConfig(kind=kind).ignored("bf16") == EngineConfig(kind=kind).ignored("fp32") == []
        )
