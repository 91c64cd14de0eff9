"""LoRA on every language model that we build: it trains, merges and is exported, biases and all."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from mobilellama.config import ConfigError
from mobilellama.pretrain.state.manifest import read_manifest
from mobilellama.pretrain.weight_source import HeldWeights, fill
from mobilellama.run_folder import RunFolder
from mobilellama.run_record import LLAMA_LINEARS, Adapters, RunRecord
from mobilellama.sft.lora import (
    Merged,
    adapted_linears,
    adapted_weights,
    base_name,
    inject,
    is_adapter,
    with_targets,
)
from mobilellama.sft.lora_config import LoraConfig, lora_of
from mobilellama.tokenizers.tokenizer import Tokenizer
from mobilellama.vlm.formats.export_check import check_merged
from mobilellama.vlm.formats.folder import open_folder
from mobilellama.vlm.formats.trained import open_trained
from mobilellama.vlm.main import main
from mobilellama.vlm.model import LANGUAGE, VisionLanguageModel, build_on, parameter_shapes
from tests.helpers.ranks import run_ranks
from tests.vlm.helpers.llava_data import write_llava
from tests.vlm.helpers.small_models import KINDS, architecture, batch, randomise
from tests.vlm.helpers.tiny_vlm import LANGUAGE as SIZES
from tests.vlm.helpers.tiny_vlm import make_tower, train_vlm

LORA = LoraConfig(rank=3, alpha=6, dropout=0.0)
TARGETS = {
    "llama": [*LLAMA_LINEARS],
    "qwen2": [*LLAMA_LINEARS],
    "phi": ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"],
    "phi3": ["o_proj", "qkv_proj", "gate_up_proj", "down_proj"],
    "gemma": [*LLAMA_LINEARS],
    "mixtral": ["q_proj", "k_proj", "v_proj", "o_proj"],  # experts are no linear layers
    "qwen2_moe": [*LLAMA_LINEARS],  # of the shared expert; not its gate, whose weight is a vector
}


def weights_of(model: nn.Module) -> HeldWeights:
    return HeldWeights({name: value.detach() for name, value in model.named_parameters()})


def adapted(kind: str, lora: LoraConfig = LORA) -> VisionLanguageModel:
    """Return a model with adapters, all its weights drawn, biases and adapters too."""
    model = build_on(
        torch.device("cpu"), architecture(kind), adapt=partial(inject, config=lora, prefix=LANGUAGE)
    )
    randomise(model)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_adapts_all_linear_layers_but_the_head(kind: str) -> None:
    with torch.device("meta"):
        model = VisionLanguageModel(architecture(kind))
    linears = {n for n, m in model.language_model.named_modules() if isinstance(m, nn.Linear)}
    found = adapted_linears(model, LORA, prefix=LANGUAGE)
    assert {name.removeprefix(LANGUAGE) for name in found} == {
        name for name in linears if not name.endswith(("lm_head", "shared_expert_gate"))
    }
    named = with_targets(LORA, model, prefix=LANGUAGE)
    assert sorted(named.targets or []) == sorted(TARGETS[kind])
    assert adapted_linears(model, named, prefix=LANGUAGE) == found


@pytest.mark.parametrize("kind", KINDS)
def test_base_and_adapter_merge_to_the_same_losses_whatever_leaves_the_layers_have(
    kind: str,
) -> None:
    model = adapted(kind)
    shapes = parameter_shapes(architecture(kind))
    names = [name for name, _ in model.named_parameters()]
    assert {base_name(name) for name in names if not is_adapter(name)} == shapes.keys()
    merged = Merged(weights_of(model), adapted_weights(names, LORA))
    plain = VisionLanguageModel(architecture(kind)).train()
    fill(plain, merged)
    found, expected = plain(**batch()), model(**batch())
    torch.testing.assert_close(
        found.sample_loss_sums, expected.sample_loss_sums, rtol=1e-4, atol=1e-4
    )
    model.language_model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            parameter.data.zero_()
    assert not torch.allclose(model(**batch()).sample_loss_sums, found.sample_loss_sums, rtol=1e-2)


def test_a_head_of_any_name_is_no_target() -> None:
    """The loss reads its weight: an adapter beside it would never be computed."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.embed_out = nn.Linear(8, 8), nn.Linear(8, 9)

        def get_output_embeddings(self) -> nn.Module:
            return self.embed_out

    lora = LoraConfig(rank=2, targets=["embed_out"])
    with pytest.raises(ConfigError, match=r"lora\.targets = embed_out: cannot be adapted: LoRA"):
        adapted_linears(Named(), lora)
    assert adapted_linears(Named(), LoraConfig(rank=2)) == ["inner"]


def test_a_router_made_of_a_linear_layer_is_no_target_and_another_linear_layer_is() -> None:
    """PhiMoE's router gives which experts it chose; Falcon's layer is one that adds its bias."""
    from transformers.models.falcon.modeling_falcon import FalconLinear
    from transformers.models.phimoe.modeling_phimoe import PhimoeTopKRouter

    config: Any = AutoConfig.for_model("phimoe", hidden_size=8, num_local_experts=4)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.router = FalconLinear(8, 8), PhimoeTopKRouter(config)

    state = torch.get_rng_state()
    layer = Layer()
    drawn = torch.get_rng_state()
    assert adapted_linears(layer, LoraConfig(rank=2)) == ["dense"]
    assert torch.equal(drawn, torch.get_rng_state()) and not torch.equal(drawn, state)
    with pytest.raises(
        ConfigError, match=r"lora\.targets = router: is not a linear layer of the mod"
    ):
        adapted_linears(layer, LoraConfig(rank=2, targets=["router"]))


def test_a_record_tells_the_section_that_it_was_made_of() -> None:
    for section in (LoraConfig(), LoraConfig(rank=4, alpha=8), LoraConfig(rank=2, targets=["fc1"])):
        assert lora_of(RunRecord(stage="vlm", lora=section.adapters)) == section
    assert LoraConfig(rank=2, targets=["fc1"]).adapters == Adapters(
        rank=2, alpha=256, dropout=0.05, targets=["fc1"]
    )


def test_a_run_that_is_resumed_keeps_its_targets() -> None:
    with torch.device("meta"):
        model = VisionLanguageModel(architecture("phi"))
    before = LoraConfig(rank=3, targets=["fc1"])
    for given, expected in ((LORA, ["fc1"]), (LoraConfig(rank=3, targets=["fc2"]), ["fc2"])):
        found = with_targets(given, model, prefix=LANGUAGE, before=before)
        assert found.targets == expected


def make_model(folder: Path, tokenizer: Path, kind: str) -> Path:
    """Write a language model of random weights as transformers does, with a tokenizer."""
    torch.manual_seed(3)
    values: dict[str, Any] = SIZES | KINDS[kind]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values))
    randomise(model)
    model.save_pretrained(folder)
    Tokenizer(tokenizer).save(folder)
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"lora.targets": "[q_proj,fc3]"},
            r"lora\.targets = fc3: is not a linear layer of the model",
        ),
        ({"lora.targets": "[lm_head]"}, r"lora\.targets = lm_head: cannot be adapted"),
        (
            {"lora.rank": 33},
            r"lora\.rank = 33: is above 32, the most that q_proj .*targets without",
        ),
    ],
)
def test_what_cannot_be_adapted_is_told_before_anything_is_tokenised(
    fields: dict[str, Any], message: str, small_tokenizer: Path, tmp_path: Path
) -> None:
    records, images = write_llava(tmp_path / "data", records=2, images=2)
    init, tower = make_model(tmp_path / "init", small_tokenizer, "phi"), make_tower(tmp_path / "t")
    given = {"vision": tower, "lora.rank": 2} | fields
    with pytest.raises(ConfigError, match=message):
        train_vlm(init, records, images, tmp_path / "run", given)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_adapters_trains_goes_on_and_is_exported(
    kind: str, small_tokenizer: Path, tmp_path: Path
) -> None:
    records, images = write_llava(tmp_path / "data", records=8, images=4)
    init, tower = make_model(tmp_path / "init", small_tokenizer, kind), make_tower(tmp_path / "t")
    run, output = tmp_path / "run", tmp_path / "out"
    fields = {"vision": tower, "lora.rank": 3, "lora.alpha": 6, "lora.dropout": 0.0}
    for steps in (1, 2):
        run_ranks(train_vlm, 1, init, records, images, run, fields | {"train.max_steps": steps})
    manifest = read_manifest(RunFolder(run).checkpoint(2))
    config: dict[str, Any] = dict(manifest.config)
    assert dict(manifest.identity)["lora.targets"] == config["lora"]["targets"]
    assert sorted(config["lora"]["targets"]) == sorted(TARGETS[kind])
    trained = open_trained(str(run))
    assert check_merged(trained) < 1e-4
    arguments = ["--checkpoint", str(run), "--output", str(output), "--dtype", "fp32"]
    assert main(["export", *arguments, "--check", "true"]) == 0
    opened, before = open_folder(output), load_file(init / "model.safetensors")
    moved = 0
    for name in trained.shapes:
        value = trained.weights.parameter(name)
        assert torch.equal(opened.weights.parameter(name), value), name
        first = before.get(name.removeprefix(LANGUAGE))  # None: an expert's, joined from several
        moved += first is not None and not torch.equal(value, first)
    assert moved == len(adapted_weights(trained.checkpoint.names(), trained.lora))  # pyright: ignore[reportOptionalMemberAccess]
