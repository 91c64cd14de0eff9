"""The section checkpoint."""

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.state.config import CheckpointConfig


@pytest.mark.parametrize("field", ["every_steps", "keep_last", "keep_every_steps"])
def test_a_value_below_one_is_refused_by_its_dotted_name(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"^checkpoint\.{field} = 0: must be at least 1"):
        CheckpointConfig(**{field: 0})


def test_no_checkpoint_need_be_kept_for_good() -> None:
    assert CheckpointConfig(keep_every_steps=None).keep_every_steps is None
