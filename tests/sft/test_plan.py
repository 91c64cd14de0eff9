"""The plan of a finetuning against peft's parameters, autograd's savings and a real engine."""

import json
from functools import partial
from typing import Any

import pytest
import torch

from mobilellama.config import ConfigError
from mobilellama.distributed import World
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.engines.deepspeed import DeepSpeedEngine
from mobilellama.pretrain.model import LanguageModel, build_on
from mobilellama.pretrain.optimizer import parameter_groups, trained
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.optimizers.kind import open_optimizer
from mobilellama.pretrain.planning.activations import Shape, kept_by_head
from mobilellama.pretrain.planning.adapters import (
    adapted_bytes,
    adapted_layer_bytes,
    adapter_parameters,
)
from mobilellama.pretrain.planning.parameters import parameters_by_part
from mobilellama.pretrain.planning.saved import bytes_saved
from mobilellama.pretrain.planning.state_memory import state_memory
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.sft.lora import inject
from mobilellama.sft.lora_config import LoraConfig
from mobilellama.sft.main import main
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.held import held_bytes

MODEL = ModelConfig(
    vocab_size=256, d_model=128, n_layers=3, n_heads=4, n_kv_heads=2, d_ff=320, max_seq_len=512
)
LORAS = [
    LoraConfig(rank=8),
    LoraConfig(rank=8, dropout=0.0),
    LoraConfig(rank=16, targets=["q_proj", "v_proj"]),
]


def adapted_model(lora: LoraConfig, *, checkpointing: bool = False) -> LanguageModel:
    return build_on(
        torch.device("cpu"), MODEL, gradient_checkpointing=checkpointing,
        adapt=partial(inject, config=lora),
    )  # fmt: skip


def planned(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    base = ("--config", "mobilellama_1_4b_sft", "--base", "mobilellama_1_4b", "--gpu", "a100-80g")
    assert main(["plan", *base, *words, "--json", "true"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("lora", LORAS)
def test_the_parameters_are_those_of_peft(lora: LoraConfig) -> None:
    assert lora.adapters
    count = sum(parameter.numel() for _, parameter in trained(adapted_model(lora)))
    assert adapter_parameters(MODEL, lora.adapters) == count


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", LORAS)
def test_an_adapted_model_saves_what_the_plan_says(lora: LoraConfig, checkpointing: bool) -> None:
    assert lora.adapters
    model = adapted_model(lora, checkpointing=checkpointing)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    ids = torch.zeros(2, 256, dtype=torch.int64)
    saved = bytes_saved(model, lambda: model(ids, ids))
    shape = Shape(samples=2, seq_len=256, element_bytes=2, on_cpu=True)
    expected = adapted_bytes(MODEL, shape, lora.adapters, checkpointing=checkpointing)
    if checkpointing:  # the layer that the backward pass computes again
        expected -= adapted_layer_bytes(MODEL, shape, lora.adapters)
    expected += kept_by_head(MODEL, shape, frozen=True)
    assert expected == pytest.approx(saved, rel=0.05)


def held_with_adapters() -> tuple[int, int]:
    """Return the bytes that an engine holds before its step and after, without rotary tables."""
    torch.set_num_threads(1)
    world = World(DistributedConfig(accelerator="cpu", threads=1))
    before = held_bytes()
    model, optimizer = adapted_model(LORAS[0]), OptimizerConfig()
    engine = DeepSpeedEngine(
        model, parameter_groups(trained(model), optimizer), config=EngineConfig(),
        precision="bf16", optimizer=open_optimizer(optimizer), micro_batch_size=1,
        world_size=world.size,
    )  # fmt: skip
    rope = 2 * 4 * MODEL.max_seq_len * MODEL.head_dim
    held = []
    for _ in range(2):
        ids = torch.ones(1, 16, dtype=torch.int64)
        engine.backward(engine.forward({"input_ids": ids, "labels": ids}, last=True).loss_sum)
        del ids
        held = [sum((held_bytes() - before).values()) - rope]
        engine.step(1.0)
    return held[0], sum((held_bytes() - before).values()) - rope


@pytest.mark.slow
def test_a_rank_holds_the_frozen_weights_whole_and_the_rest_by_shares() -> None:
    lora = LORAS[0].adapters
    assert lora
    count = adapter_parameters(MODEL, lora)
    state = state_memory(
        [count], EngineConfig(), precision="bf16", optimizer="adamw", world_size=2,
        frozen=sum(parameters_by_part(MODEL).values()),
    )  # fmt: skip
    for full, after in run_ranks(held_with_adapters, 2):
        assert full == pytest.approx(state.total, abs=256)
        assert after == pytest.approx(state.total - 2 * count, abs=256)


def test_the_length_is_that_of_epochs_of_rows(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "--gpus", "8", "--rows", "12800")
    assert found["hours"] * 3600 / found["step_s"] == pytest.approx(300)  # 3 epochs of 100 steps
    found = planned(capsys, "--gpus", "8", "--train.max_steps", "7")
    assert found["hours"] * 3600 / found["step_s"] == pytest.approx(7)


def test_lora_needs_less_state_less_time_and_less_disk(capsys: pytest.CaptureFixture[str]) -> None:
    whole = planned(capsys, "--gpus", "8", "--rows", "12800")
    lora = planned(capsys, "--gpus", "8", "--rows", "12800", "--lora.rank", "128")
    assert lora["parameters"]["adapters"] == 121_110_528
    assert lora["memory_bytes"]["gradients"] == 6 * 121_110_528
    assert lora["hours"] < whole["hours"]
    assert lora["disk_bytes"] == 3 * 12 * 121_110_528 + 4 * 1_364_297_728


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpus", "8"), "rows = null: must be given"),
        (("--gpus", "8", "--rows", "0"), "rows = 0: must be at least 1"),
        (("--gpus", "8", "--rows", "9", "--seq_len", "4096"), "seq_len = 4096: exceeds the 2,048"),
        (("--gpus", "8", "--rows", "9", "--base", "1_4b"), "base = 1_4b: is neither a file"),
        (("--gpus", "3", "--rows", "9"), r"train.global_batch_size = 128: .* over 1, 2, 4, 8 proc"),
        (
            ("--gpus", "8", "--rows", "9", "--lora.rank", "8", "--lora.targets", "q"),
            "lora.targets = q: is not a linear layer",
        ),
    ],
)
def test_wrong_values_are_told(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=said):
        planned(capsys, *words)
