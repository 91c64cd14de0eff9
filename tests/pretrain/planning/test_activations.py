"""The bytes of activations against those that autograd saves, by its own hooks."""

import pytest
import torch

from mobilellama.pretrain.model import build_on
from mobilellama.pretrain.planning.activations import (
    Shape,
    activation_bytes,
    autocast_bytes,
    input_bytes,
    kept_by_head,
    layer_bytes,
)
from mobilellama.pretrain.planning.parameters import parameters_by_part
from mobilellama.pretrain.planning.saved import bytes_saved
from mobilellama.pretrain.sections import ModelConfig

MODELS = [
    ModelConfig(vocab_size=256, d_model=128, n_layers=3, n_heads=4, d_ff=320, max_seq_len=512),
    ModelConfig(
        vocab_size=512, d_model=192, n_layers=2, n_heads=6, n_kv_heads=2, d_ff=256, max_seq_len=512
    ),
]
DTYPES = {2: torch.bfloat16, 4: torch.float32}


def saved_by_model(config: ModelConfig, shape: Shape, *, checkpointing: bool) -> int:
    model = build_on(torch.device("cpu"), config, gradient_checkpointing=checkpointing)
    for parameter in model.parameters():  # the rotary tables stay fp32, as the engines leave them
        parameter.data = parameter.data.to(DTYPES[shape.element_bytes])
    ids = torch.zeros(shape.samples, shape.seq_len, dtype=torch.int64)
    return bytes_saved(model, lambda: model(ids, ids))


@pytest.mark.parametrize("element_bytes", [2, 4])
@pytest.mark.parametrize(("samples", "seq_len"), [(1, 512), (4, 64), (2, 256)])
@pytest.mark.parametrize("config", MODELS)
def test_the_whole_model_saves_what_the_plan_says(
    config: ModelConfig, samples: int, seq_len: int, element_bytes: int
) -> None:
    shape = Shape(samples=samples, seq_len=seq_len, element_bytes=element_bytes, on_cpu=True)
    planned = activation_bytes(config, shape, checkpointing=False) + kept_by_head(config, shape)
    saved = saved_by_model(config, shape, checkpointing=False)
    assert planned == pytest.approx(saved, rel=0.03)


@pytest.mark.parametrize(("samples", "seq_len"), [(1, 512), (4, 64)])
@pytest.mark.parametrize("config", MODELS)
def test_with_checkpointing_it_saves_the_inputs_of_the_layers(
    config: ModelConfig, samples: int, seq_len: int
) -> None:
    """The layer that is computed again in the backward pass is not saved in the forward pass."""
    shape = Shape(samples=samples, seq_len=seq_len, element_bytes=2, on_cpu=True)
    planned = activation_bytes(config, shape, checkpointing=True) + kept_by_head(config, shape)
    saved = saved_by_model(config, shape, checkpointing=True)
    assert planned - layer_bytes(config, shape) == pytest.approx(saved, rel=0.03)


def test_a_gpu_s_norm_keeps_its_input_as_it_is() -> None:
    """By reading: torch's _fused_rms_norm_backward takes the input and 1 / rms in fp32."""
    cpu = Shape(samples=2, seq_len=64, element_bytes=2, on_cpu=True)
    gpu = Shape(samples=2, seq_len=64, element_bytes=2)
    per_norm = 2 * 64 * 128 * (2 * 4 - 2)
    assert layer_bytes(MODELS[0], cpu) - layer_bytes(MODELS[0], gpu) == 2 * per_norm


def test_the_input_of_a_layer_is_one_stream() -> None:
    shape = Shape(samples=2, seq_len=64, element_bytes=2)
    assert input_bytes(MODELS[0], shape) == 2 * 64 * 128 * 2


@pytest.mark.parametrize("config", MODELS)
def test_autocast_saves_copies_of_matrices_and_of_their_inputs(config: ModelConfig) -> None:
    shape = Shape(samples=2, seq_len=256, element_bytes=2, on_cpu=True)
    model = build_on(torch.device("cpu"), config)
    ids = torch.zeros(2, 256, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        saved = bytes_saved(model, lambda: model(ids, ids))
    parts = parameters_by_part(config)
    matrices = parts["attention"] + parts["mlp"]
    planned = (
        activation_bytes(config, shape, checkpointing=False)
        + kept_by_head(config, shape)
        + autocast_bytes(config, shape, matrices=matrices, checkpointing=False)
    )
    assert planned == pytest.approx(saved, rel=0.03)
