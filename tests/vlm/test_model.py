"""Tower, projector and language model together: features at their places, losses transformers' own.

Shape suffixes as in the model: B batch, T time, D width, P tokens of an image.
"""

import importlib.util
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from mobilellama.config import ConfigError
from mobilellama.pretrain.model import LossSums
from mobilellama.sft.lora import inject, is_adapter
from mobilellama.sft.lora_config import LoraConfig
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.data.images import ImageProcessor
from mobilellama.vlm.data.labels import IMAGE
from mobilellama.vlm.model import (
    LANGUAGE,
    PROJECTOR,
    TOWER,
    VisionLanguageModel,
    attention_for,
    build_language_model,
    build_on,
    parameter_shapes,
)
from mobilellama.vlm.projectors.table import PROJECTORS
from mobilellama.vlm.towers import patch_features
from tests.vlm.helpers.small_models import (
    KINDS,
    architecture,
    batch,
    packed,
    pixels,
    randomise,
    tiny,
)

TOKENS = 4


def test_feature_k_of_an_image_comes_to_its_place_k() -> None:
    model = tiny()
    ids = torch.tensor([[5, *[IMAGE] * 4, 6, 7, 8, 9, 10], [*[IMAGE] * 4, 5, *[IMAGE] * 4, 6]])
    features = torch.arange(3 * 4 * 32.0).view(3, 4, 32)
    found = model.embed(ids, features)
    table = model.language_model.get_input_embeddings().weight
    image = iter(features.reshape(-1, 32))
    for row in range(2):
        for place, token in enumerate(ids[row].tolist()):
            expected = next(image) if token == IMAGE else table[token]
            assert torch.equal(found[row, place], expected)
    assert next(image, None) is None


def test_features_of_another_precision_are_taken() -> None:
    model = tiny().bfloat16()
    ids = torch.tensor([[IMAGE] * 4])
    features = torch.randn(1, 4, 32)
    assert torch.equal(model.embed(ids, features)[0], features[0].bfloat16())


def test_image_features_are_the_projected_normalised_patches() -> None:
    model, given = tiny(), pixels(3)
    normalised = model.config.images.normalise(given)
    expected = model.projector(patch_features(model.vision_tower, normalised, -2))
    found = model.image_features(given)
    assert found.shape == (3, TOKENS, 32)
    assert torch.equal(found, expected)
    assert torch.equal(model.image_features(given[1:2])[0], found[1])  # each by itself


@pytest.mark.parametrize("projector", ["ldpnet", "ldpnetv2", "mlp2x_gelu"])
def test_each_projector_gives_its_number_of_tokens(projector: str) -> None:
    config = architecture(projector=projector)
    model = VisionLanguageModel(config)
    assert model.image_features(pixels(2)).shape == (2, config.image_tokens, 32)


def transformers_loss(model: VisionLanguageModel, given: dict[str, Tensor]) -> Tensor:
    """Return the sum of the losses that transformers computes on the same embeddings."""
    embeddings = model.embed(given["input_ids"], model.image_features(given["pixel_values"]))
    labels = torch.full_like(given["labels"], -100)
    labels[:, 1:] = given["labels"][:, :-1]  # it shifts them itself
    out = model.language_model(inputs_embeds=embeddings, labels=labels, use_cache=False)
    return out.loss * (given["labels"] != -100).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_transformers_own_with_any_language_model(kind: str) -> None:
    model, given = tiny(kind, loss_chunk_tokens=7), batch()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    results = []
    for compute in (lambda: model(**given).loss_sum, lambda: transformers_loss(model, given)):
        loss = compute()
        results.append((loss, torch.autograd.grad(loss, [*trained.values()])))
    (found, gradients), (expected, theirs) = results
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    for name, gradient, their in zip(trained, gradients, theirs, strict=True):
        assert their.abs().max() > 0, name
        torch.testing.assert_close(
            gradient, their, rtol=0, atol=float(2e-5 * their.abs().max()), msg=name
        )
    head = model.language_model.get_output_embeddings()
    embedding = model.language_model.get_input_embeddings()
    assert (head.bias is not None) == (kind == "phi")
    assert (head.weight is embedding.weight) == (kind in ("qwen2", "gemma"))


def test_sums_are_told_apart_by_sample_and_padding_changes_none() -> None:
    model, given = tiny(), batch()
    sums: LossSums = model(**given)
    assert sums.sample_tokens.tolist() == (given["labels"] != -100).sum(dim=1).tolist()
    torch.testing.assert_close(sums.sample_loss_sums.sum(), sums.loss_sum)
    one = {name: value[:1] for name, value in given.items()}
    padded = {
        "input_ids": F.pad(one["input_ids"], (0, 5), value=0),
        "labels": F.pad(one["labels"], (0, 5), value=-100),
        "pixel_values": one["pixel_values"],
    }
    alone, longer = model(**one), model(**padded)
    torch.testing.assert_close(alone.loss_sum, sums.sample_loss_sums[0])
    torch.testing.assert_close(longer.loss_sum, alone.loss_sum)


def test_the_image_decides_the_loss() -> None:
    model, given = tiny(), batch()
    other = given | {"pixel_values": pixels(3, seed=1)}
    assert model(**given).loss_sum != model(**other).loss_sum
    swapped = given | {"pixel_values": given["pixel_values"][[0, 2, 1]]}
    first, second = model(**given).sample_loss_sums, model(**swapped).sample_loss_sums
    torch.testing.assert_close(first[0], second[0])  # of the other sample
    assert first[1] != second[1]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_alone_give_the_language_models_loss_and_the_projector_gradients_of_zero(
    kind: str,
) -> None:
    model, given = tiny(kind), batch(images=False)
    sums = model(**given)
    sums.loss_sum.backward()
    labels = torch.full_like(given["labels"], -100)
    labels[:, 1:] = given["labels"][:, :-1]
    with torch.no_grad():
        expected = model.language_model(input_ids=given["input_ids"], labels=labels).loss
    torch.testing.assert_close(
        sums.loss_sum.detach(), expected * sums.sample_tokens.sum(), rtol=1e-5, atol=0
    )
    for name, parameter in model.projector.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name
    assert all(p.grad is not None for p in model.language_model.parameters())


def of_kind(kind: str) -> dict[str, Tensor]:
    """Return a micro-batch: images, texts, both, packed rows of each, or nothing but padding."""
    images, texts = batch(), batch(images=False)
    if kind == "both":
        ids = torch.stack([images["input_ids"][0], texts["input_ids"][0]])
        labels = torch.stack([images["labels"][0], texts["labels"][0]])
        return {"input_ids": ids, "labels": labels, "pixel_values": images["pixel_values"][:1]}
    if kind == "empty":
        return {"input_ids": torch.zeros(1, 1).long(), "labels": torch.full((1, 1), -100)}
    given = images if kind.endswith("images") else texts
    if kind.startswith("packed"):
        given["position_ids"] = (torch.arange(20) % 10).expand(2, 20)
    return given


def gradient_order(model: VisionLanguageModel, given: dict[str, Tensor]) -> list[str]:
    """Return the names of the parameters in the order in which a backward pass makes gradients."""
    order: list[str] = []
    hooks = [
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    model(**given).loss_sum.backward()
    for hook in hooks:
        hook.remove()
    return order


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("language", ["llama", "qwen2", "phi", "mixtral"])
@pytest.mark.parametrize("trained", ["all", "projector", "lora"])
@pytest.mark.parametrize("projector", PROJECTORS)
def test_every_kind_of_micro_batch_makes_all_gradients_in_the_same_order(
    projector: str, trained: str, language: str, checkpointing: bool
) -> None:
    def adapt(model: nn.Module) -> None:
        if trained == "lora":
            inject(model, LoraConfig(rank=2, targets=["q_proj", "v_proj"]), prefix=LANGUAGE)
        for name, parameter in model.named_parameters():
            if trained != "all" and not is_adapter(name):
                parameter.requires_grad_(name.startswith(PROJECTOR))

    model = build_on(
        torch.device("cpu"), architecture(language, projector=projector), packed=True,
        gradient_checkpointing=checkpointing, adapt=adapt,
    )  # fmt: skip
    randomise(model)
    expected = gradient_order(model, of_kind("images"))
    assert sorted(expected) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    for kind in ("texts", "both", "packed images", "packed texts", "empty"):
        model.zero_grad()
        assert gradient_order(model, of_kind(kind)) == expected, kind
        if kind.endswith(("texts", "empty")):
            assert not any(p.grad.any() for p in model.projector.parameters() if p.grad is not None)


def test_the_tower_never_trains_and_stays_in_evaluation() -> None:
    model = tiny()
    before = {n: v.clone() for n, v in model.vision_tower.state_dict().items()}
    for _ in range(2):
        assert model.train().training and model.language_model.training
        assert not any(module.training for module in model.vision_tower.modules())
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
        model(**batch()).loss_sum.backward()
        optimizer.step()
    assert all(p.grad is None and not p.requires_grad for p in model.vision_tower.parameters())
    after = model.vision_tower.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not model.eval().training


def test_names_and_shapes_are_the_parts_own() -> None:
    shapes = parameter_shapes(architecture("qwen2"))
    names = {prefix: {n for n in shapes if n.startswith(prefix)} for prefix in
             (TOWER, PROJECTOR, LANGUAGE)}  # fmt: skip
    assert sum(map(len, names.values())) == len(shapes)
    assert "vision_tower.pre_layrnorm.weight" in shapes
    assert shapes["projector.mlp.0.weight"] == (32, 32)
    assert shapes["language_model.model.embed_tokens.weight"] == (800, 32)
    assert "language_model.lm_head.weight" not in shapes  # tied, and so there once


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_built_empty_and_filled_is_the_one_transformers_makes(
    kind: str, checkpointing: bool
) -> None:
    """Tables of positions and tied heads are in no parameter; recomputed layers change nothing."""
    made, given = tiny(kind), batch()
    built = build_on(torch.device("cpu"), architecture(kind), gradient_checkpointing=checkpointing)
    assert not any(parameter.any() for parameter in built.parameters())
    with torch.no_grad():
        filled = dict(made.named_parameters())
        assert filled.keys() == dict(built.named_parameters()).keys()
        for name, parameter in built.named_parameters():
            parameter.copy_(filled[name])
    calls: list[int] = []
    layers = built.language_model.base_model.layers
    layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    losses, gradients = [], []
    for model in (made, built):
        loss = model(**given).loss_sum
        loss.backward()
        losses.append(loss)
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    assert losses[0] == losses[1]
    assert len(calls) == (2 if checkpointing else 1)
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert (gradient is None) == (other is None), name
        assert gradient is None or torch.equal(gradient, other), name


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_a_row_do_not_see_each_other(kind: str) -> None:
    model = tiny(kind)
    apart, together = model(**batch()), model(**packed())
    expected = apart.sample_loss_sums.sum().expand(2)
    torch.testing.assert_close(together.sample_loss_sums, expected, rtol=1e-5, atol=0)
    seeing = {name: value for name, value in packed().items() if name != "position_ids"}
    assert not torch.allclose(model(**seeing).sample_loss_sums, expected, rtol=1e-3)


def flash_stand_in(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    position_ids: Tensor | None = None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers does with flash-attn: within samples, but in a single row only."""
    assert attention_mask is None
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    cuts = [0, query.shape[2]]
    if position_ids is not None and len(query) == 1:
        starts = torch.nonzero(position_ids[0] == 0).flatten().tolist()
        cuts = [*starts, query.shape[2]]
    parts = []
    for a, b in itertools.pairwise(cuts):
        q, k, v = (x[:, :, a:b] for x in (query, key, value))
        parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling))
    return torch.cat(parts, dim=2).transpose(1, 2), None


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_a_row_do_not_see_each_other_with_flash_attn_either(kind: str) -> None:
    """Which looks for several samples in a row only where there is one row."""
    AttentionInterface.register("flash_stand_in", flash_stand_in)
    model = tiny(kind)
    model.language_model.config._attn_implementation = "flash_stand_in"
    expected = tiny(kind)(**packed())
    found = model(**packed())
    torch.testing.assert_close(found.sample_loss_sums, expected.sample_loss_sums)
    plain = model(**batch())  # and without positions nothing is laid end to end
    torch.testing.assert_close(plain.sample_loss_sums, tiny(kind)(**batch()).sample_loss_sums)


def test_flash_attn_is_used_where_it_is_there_on_gpus_in_half_precision() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    there = importlib.util.find_spec("flash_attn") is not None
    assert attention_for(cuda, half_precision=True) == ("flash_attention_2" if there else "sdpa")
    assert attention_for(cuda, half_precision=False) == "sdpa"
    assert attention_for(cpu, half_precision=True) == "sdpa"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llamma"}, r"init: model_type = llamma: is not known to transformers"),
        ({"model_type": "clip_vision_model"}, r"init: model_type = .*: is not a causal model"),
        (
            {"model_type": "bert"},
            r"init: model_type = bert: has a layer between hidden states and head \(cls\.pred",
        ),
        (
            {"model_type": "roberta", "is_decoder": True},
            r"init: model_type = roberta: has a layer between hidden .* \(lm_head\.dense\.weight\)",
        ),
        ({"model_type": "modernbert-decoder"}, r"init: model_type = modernbert-dec.*: has a layer"),
        ({"model_type": "bert-generation"}, r"init: is_decoder = false: lets a token see later "),
        ({"model_type": "llama", "is_causal": False}, r"init: is_causal = false: lets a token see"),
        (
            {"model_type": "gemma3_text", "use_bidirectional_attention": True},
            r"init: use_bidirectional_attention = true: lets a token see later ones",
        ),
        ({"model_type": "bloom"}, r"init: model_type = bloom: has no 'sdpa' attention\."),
        (
            {"model_type": "gemma2", "final_logit_softcapping": 30.0},
            r"init: final_logit_softcapping = 30\.0: changes the logits after the head",
        ),
        (
            {"model_type": "granite", "logits_scaling": 8.0},
            r"init: logits_scaling = 8\.0: changes the logits",
        ),
        (
            {"model_type": "cohere", "logit_scale": 0.0625},
            r"init: logit_scale = 0\.0625: changes the logits",
        ),
    ],
)
def test_a_language_model_whose_loss_we_would_get_wrong_is_refused(
    config: dict[str, Any], message: str
) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        build_language_model(config, "sdpa")


@pytest.mark.parametrize("kind", ["gemma2", "cohere", "recurrent_gemma"])
def test_what_such_a_models_config_leaves_out_is_refused_too(kind: str) -> None:
    """transformers fills it in, and then it caps or scales."""
    with torch.device("meta"), pytest.raises(ConfigError, match=r"changes the logits"):
        build_language_model({"model_type": kind}, "sdpa")


# The start of a run adds hidden_size, which BART spells d_model.
BART: dict[str, Any] = {
    "vocab_size": 800, "d_model": 32, "hidden_size": 32, "decoder_layers": 2,
    "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
}  # fmt: skip
BERT: dict[str, Any] = {
    "vocab_size": 800, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize(
    "language",
    [
        {"model_type": "bart", **BART},
        {"model_type": "mbart", "scale_embedding": True, **BART},
        {"model_type": "bert-generation", "is_decoder": True, **BERT},
        {"model_type": "gpt_neox", **BERT},  # whose config says is_decoder = False
    ],
    ids=lambda language: language["model_type"],
)
def test_a_decoder_that_is_causal_and_has_a_plain_head_is_taken(
    language: dict[str, Any], empty: bool
) -> None:
    """transformers counts BART's and mBART's among the families that fill in masked tokens."""
    if empty:
        model = build_on(torch.device("cpu"), architecture(language=language))
    else:
        model = VisionLanguageModel(architecture(language=language))
    randomise(model)
    model.eval()
    given = batch(images=False)
    with torch.no_grad():
        found: LossSums = model(**given)
        logits_BTV = model.language_model(input_ids=given["input_ids"]).logits
    # Not its loss: BART's does not shift the labels.
    expected = F.cross_entropy(logits_BTV.mT, given["labels"], reduction="sum")
    torch.testing.assert_close(found.loss_sum, expected, rtol=1e-5, atol=0)
    later = given["input_ids"].clone()
    later[:, 12:] = (later[:, 12:] + 1) % 800
    early = given["labels"].clone()
    early[:, 12:] = -100
    with torch.no_grad():
        before = model(given["input_ids"], early).loss_sum
        assert model(later, early).loss_sum == before
        assert model(later, given["labels"]).loss_sum != found.loss_sum


CLIP_L = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
    "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
}  # fmt: skip
SIZES = {
    "1.4B": {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16,
             "intermediate_size": 5632},
    "2.7B": {"hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32,
             "intermediate_size": 6912},
    "7B": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
           "intermediate_size": 11008},
}  # fmt: skip


@pytest.mark.parametrize(
    ("size", "projector", "total"),
    [
        ("1.4B", "ldpnet", 1_364_297_728 + 18_936_832 + 303_507_456),
        ("2.7B", "ldpnet", 2_701_560_320 + 28_913_920 + 303_507_456),
        ("1.4B", "ldpnetv2", 1_674_121_216),
        ("2.7B", "ldpnetv2", 3_014_273_536),
        ("7B", "ldpnetv2", 7_062_943_744),
    ],
)
def test_the_published_models_have_the_published_numbers_of_parameters(
    size: str, projector: str, total: int
) -> None:
    language = {"model_type": "llama", "vocab_size": 32000, **SIZES[size]}
    config = Architecture(
        language=language, vision=CLIP_L, projector=projector,
        images=ImageProcessor(size_pixels=336),
    )  # fmt: skip
    shapes = parameter_shapes(config)
    assert sum(shape.numel() for shape in shapes.values()) == total


def test_adapt_changes_the_model_before_it_has_weights() -> None:
    seen: list[bool] = []

    def adapt(model: nn.Module) -> None:
        seen.append(all(p.is_meta for p in model.parameters()))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(PROJECTOR))

    built = build_on(torch.device("cpu"), architecture("qwen2"), adapt=adapt)
    assert seen == [True]
    trained = {name for name, p in built.named_parameters() if p.requires_grad}
    assert trained == {n for n in parameter_shapes(architecture("qwen2")) if PROJECTOR in n}
