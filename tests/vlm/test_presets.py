"""The shipped presets: the published recipes, and as many parameters as published."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from mobilellama.commandline.parser import parse_config
from mobilellama.files.presets import preset_names
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.config import Config
from mobilellama.vlm.data.images import ImageProcessor
from mobilellama.vlm.main import PRESETS
from mobilellama.vlm.model import LANGUAGE, PROJECTOR, VisionLanguageModel
from mobilellama.vlm.tuning import tune

TOWER_PARAMETERS = 303_507_456
CLIP_L = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
    "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """A language model, its parameters, those of its adapters of rank 128."""

    fields: dict[str, Any]
    parameters: int
    adapters: int


SIZES = {
    "1_7b": Size(
        {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16,
         "intermediate_size": 5632},
        1_364_297_728, 121_110_528,  # the paper's 8.87 %
    ),
    "3b": Size(
        {"hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32,
         "intermediate_size": 6912},
        2_701_560_320, 200_278_016,  # the paper's 7.41 %
    ),
    "7b": Size(
        {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
         "intermediate_size": 11008},
        6_738_415_616, 32 * 128 * (4 * (4096 + 4096) + 3 * (4096 + 11008)),
    ),
}  # fmt: skip
PROJECTORS = {
    ("ldpnet", "1_7b"): 18_936_832,
    ("ldpnet", "3b"): 28_913_920,
    ("ldpnetv2", "1_7b"): 6_316_032,
    ("ldpnetv2", "3b"): 9_205_760,
    ("ldpnetv2", "7b"): 21_020_672,
}
TOTALS = {  # of the published files
    "v2_1_7b": 1_674_121_216,
    "v2_3b": 3_014_273_536,
    "v2_7b": 7_062_943_744,
    "1_7b": 1_364_297_728 + 18_936_832 + TOWER_PARAMETERS,
    "3b": 2_701_560_320 + 28_913_920 + TOWER_PARAMETERS,
}

# What the originals' run_v1.sh and run.sh give: template, aspect, grouping, batch, learning rate,
# the projector's own, what trains. Of sizes that differ, the rate of each.
FIRST = ("plain", "square", "none", 256)
SECOND = ("vicuna_v1", "pad", "modality_length", 128)
RECIPES: dict[str, tuple[tuple[Any, ...], float, float | None, str]] = {
    "mobilevlm_1_7b_align": (FIRST, 1e-3, None, "projector"),
    "mobilevlm_3b_align": (FIRST, 1e-3, None, "projector"),
    "mobilevlm_1_7b_instruct": (SECOND, 2e-5, None, "all"),
    "mobilevlm_3b_instruct": (SECOND, 4e-5, None, "all"),
    "mobilevlm_1_7b_instruct_lora": (SECOND, 1e-4, None, "lora"),
    "mobilevlm_3b_instruct_lora": (SECOND, 2e-4, None, "lora"),
    "mobilevlm_v2_1_7b_pretrain": (FIRST, 2e-5, 1e-3, "all"),
    "mobilevlm_v2_3b_pretrain": (FIRST, 2e-5, 1e-3, "all"),
    "mobilevlm_v2_7b_pretrain": (FIRST, 2e-5, 1e-3, "all"),
    "mobilevlm_v2_1_7b_instruct": (SECOND, 4e-5, None, "all"),
    "mobilevlm_v2_3b_instruct": (SECOND, 4e-5, None, "all"),
    "mobilevlm_v2_7b_instruct": (SECOND, 4e-5, None, "all"),
    "mobilevlm_v2_1_7b_instruct_lora": (SECOND, 2e-4, None, "lora"),
    "mobilevlm_v2_3b_instruct_lora": (SECOND, 2e-4, None, "lora"),
    "mobilevlm_v2_7b_instruct_lora": (SECOND, 2e-4, None, "lora"),
}


def preset(name: str, *arguments: str) -> Config:
    argv = ["--config", name, "--init", "BASE", "--data.path", "DATA", "--data.images", "IMAGES"]
    argv += ["--run.folder", "RUN", *arguments]
    return parse_config(Config, argv, prog="run", about="", presets=PRESETS)


def test_these_presets_are_shipped() -> None:
    names = preset_names(PRESETS)
    assert {n for n in names if not n.startswith("demo")} == {*RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_a_preset_is_the_published_recipe(name: str) -> None:
    config = preset(name)
    (template, aspect, grouping, batch), rate, own_rate, trains = RECIPES[name]
    assert config.data.template == template
    assert config.data.aspect_ratio == aspect
    assert config.images.orientation == "as_stored", "CLIP's processor does not look at EXIF"
    assert (config.projector.pooling, config.projector.squeeze) == (None, None)
    assert config.data.grouping == grouping
    assert not config.data.pack
    assert config.train.global_batch_size == batch
    assert config.optimizer.learning_rate == rate
    assert config.optimizer.projector_learning_rate == own_rate
    assert config.train.language_model == (trains != "projector")
    assert config.lora.rank == (128 if trains == "lora" else None)
    assert (config.lora.alpha, config.lora.dropout) == (256, 0.05)
    assert config.lora.targets is None  # all linear layers: for Llama the seven
    # The same in all.
    assert config.projector.kind == ("ldpnetv2" if "_v2_" in name else "ldpnet")
    assert (config.train.epochs, config.train.max_steps, config.train.seq_len) == (1, None, 2048)
    assert config.train.gradient_checkpointing
    assert (config.schedule.warmup_ratio, config.schedule.min_lr_ratio) == (0.03, 0.0)
    assert (config.optimizer.beta1, config.optimizer.beta2) == (0.9, 0.999)
    assert (config.optimizer.eps, config.optimizer.weight_decay) == (1e-8, 0.0)
    assert config.optimizer.max_grad_norm == 1.0
    engine = config.engine
    assert (engine.kind, engine.zero_stage, engine.precision) == ("deepspeed", 2, "bf16")
    for gpus in (1, 2, 4, 8):  # of any machine that is usual
        assert config.train.grad_accum_steps(gpus) >= 1


def size_of(name: str) -> str:
    return next(size for size in SIZES if f"_{size}_" in name)


# peft takes seconds to put adapters into hundreds of layers; one such preset is enough each day.
SLOW = [name for name in RECIPES if RECIPES[name][-1] == "lora" and "v2_1_7b" not in name]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in RECIPES]
)
def test_a_presets_model_has_the_published_parameters_and_trains_the_right_ones(name: str) -> None:
    config, size = preset(name), SIZES[size_of(name)]
    assert config.projector.kind is not None
    architecture = Architecture(
        language={"model_type": "llama", "vocab_size": 32000, **size.fields},
        vision=CLIP_L,
        projector=config.projector.kind,
        images=ImageProcessor(size_pixels=336, aspect_ratio=config.data.aspect_ratio),
    )
    assert architecture.image_tokens == 144
    with torch.device("meta"):
        model = VisionLanguageModel(architecture)
        total = count(model)
        tune(model, config)
    version = "v2_" if "_v2_" in name else ""
    assert total == TOTALS[version + size_of(name)]
    assert count(model.vision_tower) == TOWER_PARAMETERS
    trained = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    projector = PROJECTORS[config.projector.kind, size_of(name)]
    trains = RECIPES[name][-1]
    language = {"projector": 0, "all": size.parameters, "lora": size.adapters}[trains]
    assert sum(trained.values()) == projector + language
    assert sum(n for name, n in trained.items() if name.startswith(PROJECTOR)) == projector
    assert all(name.startswith((PROJECTOR, LANGUAGE)) for name in trained)
    adapters = {n for n, _ in model.named_parameters() if ".lora_" in n}
    assert bool(adapters) == (trains == "lora")
    assert all(n.startswith(f"{LANGUAGE}model.layers.") for n in adapters)  # no tower, no head


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", preset_names(PRESETS))
def test_every_preset_parses_and_packing_is_one_flag_away(name: str) -> None:
    assert preset(name, "--data.pack", "true").data.pack


@pytest.mark.parametrize("name", ["demo_pretrain", "demo_instruct"])
def test_the_demos_images_stay_few_tokens(name: str) -> None:
    expected = "2x2" if name == "demo_pretrain" else None  # which is the first stage's
    assert preset(name).projector.pooling == expected


def test_without_a_preset_the_values_are_the_second_stages() -> None:
    argv = ["--init", "BASE", "--data.path", "DATA", "--data.images", "I", "--run.folder", "RUN"]
    config = parse_config(Config, argv, prog="run", about="")
    assert config.train.global_batch_size == 128 and config.train.epochs == 1
    assert config.optimizer.learning_rate == 2e-5 and config.optimizer.weight_decay == 0
    assert config.schedule.warmup_ratio == 0.03 and config.schedule.min_lr_ratio == 0
    assert (config.data.template, config.data.aspect_ratio) == ("vicuna_v1", "pad")
    assert config.projector.kind is None and config.vision is None
