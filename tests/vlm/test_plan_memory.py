"""The sum against what autograd saves in a model of more layers, rows and tokens."""

from functools import partial
from typing import Any

import pytest
import torch

from mobilellama.pretrain.planning.activations import Shape, kept_by_head
from mobilellama.pretrain.planning.saved import bytes_saved
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.sft.lora_config import LoraConfig
from mobilellama.vlm.config import ProjectorConfig, TuneConfig
from mobilellama.vlm.data.labels import IMAGE
from mobilellama.vlm.model import build_on
from mobilellama.vlm.plan_config import Config
from mobilellama.vlm.plan_memory import checkpointed_bytes, count_saved
from mobilellama.vlm.tuning import tune
from tests.vlm.helpers.small_models import architecture

MODEL = ModelConfig(vocab_size=800, d_model=32, n_layers=4, n_heads=2, d_ff=64)
SHAPE = Shape(samples=3, seq_len=150, element_bytes=2)


def config_of(**fields: Any) -> Config:
    return Config(
        base="", gpus=1, gpu="l4", samples=1, projector=ProjectorConfig(kind="ldpnetv2"), **fields
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("projector", "fields", "autocast"),
    [
        ("ldpnetv2", {}, False),
        ("ldpnet", {}, False),
        ("mlp2x_gelu", {}, False),
        ("ldpnetv2", {"train": TuneConfig(language_model=False)}, False),
        ("ldpnetv2", {"lora": LoraConfig(rank=4)}, False),
        ("ldpnetv2", {}, True),
    ],
)
def test_the_sum_is_what_a_larger_model_saves(
    projector: str, fields: dict[str, Any], autocast: bool, checkpointing: bool
) -> None:
    torch.set_num_threads(1)
    its = architecture(projector=projector)
    its = architecture(projector=projector, language=its.language | {"num_hidden_layers": 4})
    adapt, frozen = partial(tune, config=config_of(**fields)), bool(fields)
    dtype = torch.float32 if autocast else torch.bfloat16
    saved = count_saved(
        its, MODEL, adapt=adapt, dtype=dtype, autocast=autocast, head_is_frozen=frozen
    )
    built = build_on(torch.device("cpu"), its, gradient_checkpointing=checkpointing, adapt=adapt)
    for parameter in built.parameters():
        parameter.data = parameter.data.to(dtype)
    ids = torch.zeros(3, 150, dtype=torch.int64)
    ids[:, : its.image_tokens] = IMAGE
    pixels = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        held = bytes_saved(built, lambda: built(ids, ids.clamp(min=0), pixels))
    held -= kept_by_head(MODEL, SHAPE, frozen=frozen)
    if checkpointing:
        planned = checkpointed_bytes(saved, MODEL, SHAPE, stream_bytes=4 if autocast else 2)
        # What lives without being saved in the forward pass: the layer that is computed again,
        # autocast's copies, and the rotary tables, which are arguments of every layer.
        planned -= round(3 * 150 * saved.layer + 4 * saved.layer_fixed + 150 * saved.length)
    else:
        planned = saved.total(samples=3, seq_len=150, layers=4)
    assert planned == pytest.approx(held, rel=0.02)
