"""Checks of the training configs, by the messages that a user sees."""

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.config import Config, RunConfig
from mobilellama.pretrain.sections import MixtureConfig, ModelConfig, TrainConfig


def test_a_sequence_longer_than_the_model_takes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.seq_len = 65: must not exceed model\.max_seq"):
        Config(
            run=RunConfig(folder="unused"),
            data=MixtureConfig(path="unused"),
            model=ModelConfig(max_seq_len=64),
            train=TrainConfig(seq_len=65),
        )
