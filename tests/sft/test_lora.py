"""LoRA on our model: it begins as the base, trains nothing else, and merges to the same logits."""

import copy
import math

import peft
import pytest
import torch
from torch import nn

from mobilellama.config import ConfigError
from mobilellama.pretrain.model import LanguageModel, build_on, init_parameter
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.weight_source import HeldWeights, fill
from mobilellama.run_record import LLAMA_LINEARS
from mobilellama.sft.lora import (
    Merged,
    adapted_weights,
    base_name,
    init_lora_parameter,
    inject,
    is_adapter,
)
from mobilellama.sft.lora_config import LoraConfig

MODEL = ModelConfig(
    vocab_size=96, d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=48, max_seq_len=24
)
LORA = LoraConfig(rank=4, alpha=8, dropout=0.0)
IDS = torch.arange(40).view(2, 20)
LABELS = torch.arange(1, 41).view(2, 20)


def base_model() -> LanguageModel:
    model = build_on(torch.device("cpu"), MODEL)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(init_parameter(name, parameter.shape, MODEL, seed=1) * 5)
    return model


def injected_model(lora: LoraConfig = LORA, *, zero_b: bool = True) -> LanguageModel:
    """Return the base model with adapters; with B drawn too where it shall differ."""
    model = base_model()
    inject(model, lora)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.copy_(init_lora_parameter(name, parameter.shape, seed=3))
                if "lora_B" in name and not zero_b:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def weights_of(model: nn.Module) -> HeldWeights:
    return HeldWeights({name: value.detach() for name, value in model.named_parameters()})


def test_a_fresh_adapter_leaves_the_base_as_it_is_bit_by_bit() -> None:
    base, injected = base_model(), injected_model()
    assert torch.equal(injected.logits(IDS), base.logits(IDS))
    assert torch.equal(injected(IDS, LABELS).loss_sum, base(IDS, LABELS).loss_sum)
    changed = injected_model(zero_b=False)
    assert (changed.logits(IDS) - base.logits(IDS)).abs().max() > 0.1


def test_names_and_shapes_are_as_the_checkpoint_and_peft_know_them() -> None:
    shapes = {name: tuple(p.shape) for name, p in injected_model().named_parameters()}
    layer = "model.layers.1.mlp.down_proj"
    assert shapes[f"{layer}.base_layer.weight"] == (32, 48)
    assert shapes[f"{layer}.lora_A.default.weight"] == (4, 48)
    assert shapes[f"{layer}.lora_B.default.weight"] == (32, 4)
    plain = {base_name(name) for name in shapes if not is_adapter(name)}
    assert plain == {name for name, _ in base_model().named_parameters()}
    adapted = adapted_weights(shapes, LORA)
    assert {base_name(n) for n in shapes if n.endswith(".base_layer.weight")} == {*adapted}
    assert len(adapted) == 7 * MODEL.n_layers


def test_only_adapters_train_and_all_of_them_do() -> None:
    model = injected_model()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(trainable, lr=1e-2, weight_decay=0.0)
    for _ in range(3):
        model(IDS, LABELS).loss_sum.backward()
        assert all((p.grad is not None) == is_adapter(n) for n, p in model.named_parameters())
        adamw.step()
        adamw.zero_grad()
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) != is_adapter(name), name


def test_targets_choose_the_layers() -> None:
    lora = LoraConfig(rank=2, targets=["v_proj", "q_proj"])
    model = injected_model(lora)
    adapters = [name for name, _ in model.named_parameters() if is_adapter(name)]
    assert len(adapters) == MODEL.n_layers * 2 * 2
    assert all(".q_proj." in name or ".v_proj." in name for name in adapters)
    assert {*adapted_weights(adapters, lora)} == {
        f"model.layers.{layer}.self_attn.{leaf}.weight"
        for layer in range(MODEL.n_layers)
        for leaf in ("q_proj", "v_proj")
    }


def test_rank_none_is_full_finetuning() -> None:
    model = base_model()
    inject(model, LoraConfig())
    assert all(p.requires_grad and not is_adapter(n) for n, p in model.named_parameters())
    assert adapted_weights([n for n, _ in model.named_parameters()], LoraConfig()) == {}


def test_injection_works_on_meta_and_draws_nothing() -> None:
    with torch.device("meta"):
        model = LanguageModel(MODEL)
    state = torch.random.get_rng_state()
    inject(model, LORA)
    assert all(p.is_meta for p in model.parameters())
    real = base_model()
    inject(real, LORA)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {n: p.shape for n, p in real.named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    assert not any(p.any() for n, p in real.named_parameters() if is_adapter(n))


def test_the_first_values_are_pefts_distribution_and_depend_on_name_and_seed_alone() -> None:
    shape = torch.Size((64, 400))
    name = "model.layers.0.mlp.up_proj.lora_A.default.weight"
    first = init_lora_parameter(name, shape, seed=5)
    torch.manual_seed(0)
    theirs = torch.empty(shape)
    torch.nn.init.kaiming_uniform_(theirs, a=math.sqrt(5))
    # Both are uniform in +-1/20: the largest of 25,600 draws is within a thousandth of the bound.
    for values in (first, theirs):
        assert 0.0499 < values.abs().max() <= 0.05
        assert abs(values.mean()) < 0.001 and abs(values.std() - 0.1 / math.sqrt(12)) < 0.001
    assert torch.equal(init_lora_parameter(name, shape, seed=5), first)
    assert not torch.equal(init_lora_parameter(name, shape, seed=6), first)
    assert not torch.equal(init_lora_parameter(name.replace("0", "1"), shape, seed=5), first)
    b = name.replace("lora_A", "lora_B")
    assert torch.equal(init_lora_parameter(b, torch.Size((8, 4)), seed=5), torch.zeros(8, 4))


@pytest.mark.parametrize("alpha", [8, 3])
def test_merged_weights_are_pefts_and_give_the_logits_of_base_plus_adapter(alpha: int) -> None:
    lora = LoraConfig(rank=4, alpha=alpha, dropout=0.0)
    injected = injected_model(lora, zero_b=False)
    adapted = adapted_weights([name for name, _ in injected.named_parameters()], lora)
    merged = Merged(weights_of(injected), adapted)
    model = build_on(torch.device("cpu"), MODEL)
    fill(model, merged)
    expected, found = injected.logits(IDS), model.logits(IDS)
    assert (base_model().logits(IDS) - expected).abs().max() > 0.1
    # fp32 in another order of summation: some units in the last place.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for name in adapted:
        layer = injected.get_submodule(name.removesuffix(".weight"))
        assert isinstance(layer, peft.tuners.lora.Linear)
        assert layer.scaling == {"default": alpha / 4}
        layer.merge()
        torch.testing.assert_close(
            layer.get_base_layer().weight, model.get_parameter(name), rtol=1e-6, atol=1e-6
        )


def test_dropout_acts_in_training_alone() -> None:
    lora = LoraConfig(rank=4, alpha=8, dropout=0.5)
    model = injected_model(lora, zero_b=False)
    without = injected_model(zero_b=False)
    torch.manual_seed(0)
    model.train()
    assert not torch.equal(model.logits(IDS), model.logits(IDS))
    model.eval()
    assert torch.equal(model.logits(IDS), without.logits(IDS))
    # The base's own path has none: with B = 0 nothing is dropped.
    fresh = injected_model(lora).train()
    assert torch.equal(fresh.logits(IDS), base_model().logits(IDS))


def test_computing_layers_again_changes_no_gradient_though_the_embedding_is_frozen() -> None:
    grads = []
    for recompute in (False, True):
        model = injected_model(LoraConfig(rank=4, alpha=8, dropout=0.5), zero_b=False).train()
        model.model.gradient_checkpointing = recompute
        torch.manual_seed(7)  # the same units are dropped
        model(IDS, LABELS).loss_sum.backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and all(is_adapter(name) for name in grads[0])
    assert len(grads[0]) == 2 * 7 * MODEL.n_layers
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


def test_adapters_follow_a_cast_to_bf16_and_autocast() -> None:
    expected = injected_model(zero_b=False).logits(IDS)
    cast = copy.deepcopy(injected_model(zero_b=False)).bfloat16()
    assert {p.dtype for p in cast.parameters()} == {torch.bfloat16}
    assert cast.logits(IDS).dtype == torch.bfloat16
    model = injected_model(zero_b=False)
    with torch.autocast("cpu", torch.bfloat16):
        logits, sums = model.logits(IDS), model(IDS, LABELS)
    assert logits.dtype == torch.bfloat16 and sums.loss_sum.dtype == torch.float32
    sums.loss_sum.backward()
    grads = [p.grad for n, p in model.named_parameters() if is_adapter(n)]
    assert all(g is not None and g.dtype == torch.float32 and g.any() for g in grads)
    for rounded in (cast.logits(IDS), logits):
        # The base alone is off by 2 % in bf16; its adapters change the logits by far more.
        assert (rounded - expected).abs().mean() < 0.05 * expected.abs().mean()
    assert (base_model().logits(IDS) - expected).abs().mean() > 0.2 * expected.abs().mean()
    half = base_model().bfloat16()
    inject(half, LORA)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_the_targets_are_all_linear_layers_of_a_decoder_layer() -> None:
    layer = base_model().model.layers[0]
    names = [n for n, module in layer.named_modules() if isinstance(module, torch.nn.Linear)]
    assert sorted(name.rpartition(".")[2] for name in names) == sorted(LLAMA_LINEARS)


def test_a_target_or_rank_that_the_model_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(ConfigError) as caught:
        inject(base_model(), LoraConfig(rank=2, targets=["v_proj", "q_porj"]))
    assert str(caught.value) == (
        "lora.targets = q_porj: is not a linear layer of the model, which has q_proj, k_proj, "
        "v_proj, o_proj, gate_proj, up_proj, down_proj. Name some of them; did you mean 'q_proj'?"
    )
    with pytest.raises(ConfigError, match=r"lora\.rank = 33: is above 32, the most that q_proj"):
        inject(base_model(), LoraConfig(rank=33))


def test_a_part_of_another_model_is_adapted_alone() -> None:
    """As a tower and a language model, whose layers' names end alike."""
    both = torch.nn.ModuleDict({"tower": base_model(), "language": base_model()})
    inject(both, LORA, prefix="language.")
    adapters = [name for name, _ in both.named_parameters() if is_adapter(name)]
    assert len(adapters) == 7 * MODEL.n_layers * 2
    assert all(name.startswith("language.") for name in adapters)
