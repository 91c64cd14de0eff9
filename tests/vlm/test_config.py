"""The config of vision-language training: what is refused, and what goes together."""

from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.config import RunConfig
from mobilellama.sft.lora_config import LoraConfig
from mobilellama.vlm.config import Config, ImageTextData, TuneConfig, TwoRates


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seq_len": 0}, "train.seq_len = 0: must be at least 1"),
        ({"epochs": float("nan")}, "train.epochs = nan: must be above 0 and at most 10,000"),
        ({"max_steps": 0}, "train.max_steps = 0: must be at least 1"),
    ],
)
def test_a_length_that_is_none_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TuneConfig(**fields)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_projectors_rate_is_above_nothing_or_the_models(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"^optimizer\.projector_learning_rate = .*: must be abo"):
        TwoRates(projector_learning_rate=rate)
    assert TwoRates(projector_learning_rate=None).projector_learning_rate is None


def test_adapters_of_a_language_model_that_does_not_train_are_refused() -> None:
    def config(language_model: bool) -> Config:
        return Config(
            init="m",
            run=RunConfig(folder="r"),
            data=ImageTextData(path="p", images="i"),
            train=TuneConfig(language_model=language_model),
            lora=LoraConfig(rank=4),
        )

    assert config(True).lora.rank == 4
    with pytest.raises(ConfigError, match=r"^lora\.rank = 4: has no effect while train\.language"):
        config(False)
