"""The section lora."""

import pytest

from mobilellama.config import ConfigError
from mobilellama.sft.lora_config import LoraConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, "lora.rank = 0: must be at least 1"),
        ({"alpha": 0}, "lora.alpha = 0: must be at least 1"),
        ({"dropout": 1.0}, "lora.dropout = 1.0: must be at least 0 and below 1"),
        ({"targets": ["lm_head"]}, "lora.targets = lm_head: cannot be adapted: LoRA adapts calls"),
        ({"targets": ["embed_tokens"]}, "lora.targets = embed_tokens: cannot be adapted"),
        ({"targets": []}, "lora.targets = []: must name linear layers"),
        ({"targets": ["q_proj", "q_proj"]}, "each once. Name at least one, none twice"),
    ],
)
def test_fields_that_break_a_rule_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LoraConfig(**fields)  # pyright: ignore[reportArgumentType]
    assert message in str(caught.value)
