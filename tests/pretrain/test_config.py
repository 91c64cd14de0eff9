"""The training config: its checks by a user's messages, and the presets by the paper."""

from typing import Any

import pytest

from mobilellama.commandline.parser import parse_config
from mobilellama.config import ConfigError
from mobilellama.files.presets import preset_names
from mobilellama.pretrain.config import Config, RunConfig
from mobilellama.pretrain.main import PRESETS
from mobilellama.pretrain.model import count_parameters
from mobilellama.pretrain.sections import MixtureConfig, ModelConfig, TrainConfig
from mobilellama.shards.mixture import read_weights

# MobileVLM, arXiv 2312.16886: Table 2 (architecture), section 4.1 (recipe), Table 12 (mixture).
# Beside it stands what the paper does not say but follows or is published with the weights.
BOTH: dict[str, Any] = {
    "model.vocab_size": 32_000,
    "model.n_kv_heads": None,  # no grouping
    "model.max_seq_len": 2048,
    "model.rope_theta": 10_000.0,
    "model.norm_eps": 1e-6,
    "model.attention": "causal",
    "data.mixture": "redpajama",
    "train.seq_len": 2048,
    "train.global_batch_size": 2560,  # 5,242,880 tokens
    "train.max_steps": 247_955,  # 1.3e12 / 5,242,880
    "optimizer.learning_rate": 3e-4,
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.95,
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 0.1,
    "optimizer.max_grad_norm": 1.0,
    "schedule.warmup_steps": 2000,
    "schedule.min_lr_ratio": 0.1,  # 3e-5
    "engine.kind": "deepspeed",
    "engine.zero_stage": 1,
    "engine.precision": "bf16",
}
PAPER: dict[str, dict[str, Any]] = {
    "mobilellama_1_4b": {
        "parameters": 1_364_297_728,
        "head_dim": 128,
        "model.n_layers": 24,
        "model.d_model": 2048,
        "model.n_heads": 16,
        "model.d_ff": 5632,
        **BOTH,
    },
    "mobilellama_2_7b": {
        "parameters": 2_701_560_320,
        "head_dim": 80,
        "model.n_layers": 32,
        "model.d_model": 2560,
        "model.n_heads": 32,
        "model.d_ff": 6912,
        **BOTH,
    },
}
LARGE = tuple(PAPER)


def build(name: str) -> Config:
    arguments = ["--config", name, "--data.path", "unused", "--run.folder", "unused"]
    return parse_config(Config, arguments, prog="test", about="", presets=PRESETS)


def test_these_are_the_presets() -> None:
    assert preset_names(PRESETS) == ["demo", *LARGE]


@pytest.mark.parametrize("name", LARGE)
def test_a_preset_holds_the_papers_values(name: str) -> None:
    config = build(name)
    expected = dict(PAPER[name])
    assert count_parameters(config.model)[0] == expected.pop("parameters")
    assert config.model.head_dim == expected.pop("head_dim")
    for field, value in expected.items():
        section, _, entry = field.partition(".")
        assert getattr(getattr(config, section), entry) == value, field


@pytest.mark.parametrize("name", LARGE)
def test_a_step_is_5_242_880_tokens_and_16_samples_on_each_of_160_gpus(name: str) -> None:
    train = build(name).train
    assert train.tokens_per_step == 5_242_880
    assert train.grad_accum_steps(160) * train.micro_batch_size == 16
    assert round(1.3e12 / train.tokens_per_step) == train.max_steps
    assert read_weights("redpajama")  # the preset's mixture is shipped


def test_the_demo_is_a_few_million_parameters_on_two_processes() -> None:
    config = build("demo")
    assert 2e6 < count_parameters(config.model)[0] < 10e6
    assert config.distributed.devices == 2
    assert config.train.grad_accum_steps(2) == 2  # 32 samples in 2 x 8 on 2 processes
    assert config.schedule.warmup_steps < config.train.max_steps


def test_an_override_wins_over_the_preset_and_leaves_the_rest() -> None:
    arguments = ["--config", "demo", "--train.max_steps", "7", "--data.path", "unused"]
    config = parse_config(
        Config, [*arguments, "--run.folder", "unused"], prog="test", about="", presets=PRESETS
    )
    assert config.train.max_steps == 7
    assert config.train.seq_len == 256


def test_a_sequence_longer_than_the_model_takes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.seq_len = 65: must not exceed model\.max_seq"):
        Config(
            run=RunConfig(folder="unused"),
            data=MixtureConfig(path="unused"),
            model=ModelConfig(max_seq_len=64),
            train=TrainConfig(seq_len=65),
        )
