"""The shipped presets: the published recipe, and a config that parses."""

import pytest

from mobilellama.commandline.parser import parse_config
from mobilellama.files.presets import preset_names
from mobilellama.sft.config import Config
from mobilellama.sft.main import PRESETS


def preset(name: str, *arguments: str) -> Config:
    argv = ["--config", name, "--init", "BASE", "--data.path", "DATA", "--run.folder", "RUN"]
    return parse_config(Config, [*argv, *arguments], prog="run", about="", presets=PRESETS)


def test_the_presets_are_these() -> None:
    assert preset_names(PRESETS) == ["demo_sft", "mobilellama_1_4b_sft", "mobilellama_2_7b_sft"]


@pytest.mark.parametrize(
    ("name", "learning_rate", "epochs"),
    [("mobilellama_1_4b_sft", 2e-5, 3), ("mobilellama_2_7b_sft", 3e-5, 2)],
)
def test_the_full_size_presets_are_the_papers_recipe(
    name: str, learning_rate: float, epochs: float
) -> None:
    config = preset(name)
    assert config.optimizer.learning_rate == learning_rate
    assert (config.train.epochs, config.train.max_steps) == (epochs, None)
    assert config.train.global_batch_size == 128
    assert config.optimizer.weight_decay == 0
    assert (config.optimizer.beta1, config.optimizer.beta2) == (0.9, 0.999)
    assert (config.schedule.warmup_ratio, config.schedule.min_lr_ratio) == (0.04, 0.0)
    assert (config.engine.zero_stage, config.engine.precision) == (1, "bf16")
    assert config.lora.rank is None
    # 8 GPUs: the batch is whole micro-batches, the scripts' of 256 too.
    assert config.train.grad_accum_steps(8) >= 1
    scripts = preset(name, "--train.global_batch_size", "256")
    assert scripts.train.grad_accum_steps(8) == 2 * config.train.grad_accum_steps(8)


@pytest.mark.parametrize("name", preset_names(PRESETS))
def test_lora_and_zero_2_are_two_flags_away(name: str) -> None:
    config = preset(name, "--lora.rank", "128", "--engine.zero_stage", "2")
    assert (config.lora.rank, config.lora.alpha, config.lora.dropout) == (128, 256, 0.05)
    assert config.lora.targets is None  # all linear layers: for Llama the seven
    assert config.engine.zero_stage == 2


def test_without_a_preset_the_values_are_finetunings_not_pretrainings() -> None:
    argv = ["--init", "BASE", "--data.path", "DATA", "--run.folder", "RUN"]
    config = parse_config(Config, argv, prog="run", about="")
    assert config.optimizer.learning_rate == 2e-5 and config.optimizer.weight_decay == 0
    assert config.schedule.warmup_ratio == 0.04 and config.schedule.min_lr_ratio == 0
    assert (config.train.epochs, config.train.global_batch_size) == (3, 128)
