"""Published names: those of the true models, all and each once."""

import pytest

from mobilellama.config import DataError
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.data.images import ImageProcessor
from mobilellama.vlm.formats.key_maps import (
    after_prefix,
    is_ignored,
    projector_kind,
    published_projectors,
)
from mobilellama.vlm.formats.published_weights import published_names
from mobilellama.vlm.model import PROJECTOR, parameter_shapes
from tests.vlm.helpers.published import (
    SIZES_1_7B,
    SIZES_3B,
    SIZES_7B,
    TINY,
    Sizes,
    projector_shapes,
    published_shapes,
    vision_config,
)

KINDS = ("ldpnet", "ldpnetv2", "mlp2x_gelu")


def architecture(kind: str, its: Sizes) -> Architecture:
    return Architecture(
        language={
            "model_type": "llama",
            "vocab_size": its.vocab,
            "hidden_size": its.width,
            "intermediate_size": its.hidden,
            "num_hidden_layers": its.layers,
            "num_attention_heads": its.heads,
            "num_key_value_heads": its.heads,
            "max_position_embeddings": its.context,
        },
        vision=vision_config(its),
        projector=kind,
        images=ImageProcessor(size_pixels=its.image),
    )


@pytest.mark.parametrize(
    ("kind", "its", "tensors", "parameters"),
    [
        # 24 layers of 9 and 3; 24 of 16 and 7; 24 or 6 of the projector. Sizes: the files' bytes.
        ("ldpnet", SIZES_1_7B, 219 + 391 + 24, 1_364_297_728 + 303_507_456 + 18_936_832),
        ("ldpnetv2", SIZES_1_7B, 219 + 391 + 6, 1_674_121_216),
        ("ldpnetv2", SIZES_3B, 291 + 391 + 6, 3_014_273_536),
        ("ldpnetv2", SIZES_7B, 291 + 391 + 6, 7_062_943_744),
        ("mlp2x_gelu", TINY, 21 + 55 + 4, None),
    ],
)
def test_every_weight_of_the_true_models_has_its_published_name_and_shape(
    kind: str, its: Sizes, tensors: int, parameters: int | None
) -> None:
    config = architecture(kind, its)
    shapes = parameter_shapes(config)
    names = published_names(config)
    found = {theirs: tuple(shapes[ours]) for theirs, ours in names.items()}
    assert found == published_shapes(kind, its)
    assert len(names) == len(set(names.values())) == tensors
    if parameters is not None:
        assert sum(shape.numel() for shape in shapes.values()) == parameters


def test_the_head_stands_last_and_tower_and_projector_before_it() -> None:
    names = [*published_names(architecture("ldpnet", TINY))]
    assert names[0] == "model.embed_tokens.weight" and names[-1] == "lm_head.weight"
    parts = ["tower" if ".vision_tower." in n else "projector" if "mm_proj" in n else "llm"
             for n in names[:-1]]  # fmt: skip
    assert parts == sorted(parts, key=["llm", "tower", "projector"].index)


def test_a_head_that_is_the_embedding_is_written_as_its_copy() -> None:
    tied = architecture("ldpnetv2", TINY)
    tied.language["tie_word_embeddings"] = True
    assert published_names(tied)["lm_head.weight"] == "language_model.model.embed_tokens.weight"
    assert set(published_names(tied)) == set(published_shapes("ldpnetv2", TINY))


@pytest.mark.parametrize("kind", KINDS)
def test_a_projector_is_known_by_its_names_whatever_stands_before_them(kind: str) -> None:
    names = [*projector_shapes(kind, TINY)]
    assert projector_kind(names, "a file") == kind
    assert projector_kind([f"base_model.model.{name}" for name in names], "a file") == kind
    shapes = parameter_shapes(architecture(kind, TINY))
    ours = {name for name in shapes if name.startswith(PROJECTOR)}
    assert {PROJECTOR + name for name in published_projectors()[kind]} == ours
    assert {after_prefix(name) for name in names} == {*published_projectors()[kind].values()}


@pytest.mark.parametrize("lost", [0, 5])
def test_a_projector_of_no_known_kind_is_refused_by_its_names(lost: int) -> None:
    names = [*projector_shapes("ldpnetv2", TINY)]
    del names[lost]
    with pytest.raises(DataError, match=r"mine\.bin: its 5 weights of a projector .*ldpnetv2"):
        projector_kind(names, "mine.bin")
    with pytest.raises(DataError, match=r"its 0 weights of a projector \(none"):
        projector_kind(["lm_head.weight"], "mine.bin")


def test_only_tables_of_older_versions_are_passed_over() -> None:
    assert is_ignored("model.layers.31.self_attn.rotary_emb.inv_freq")
    assert is_ignored("model.vision_tower.vision_tower.vision_model.embeddings.position_ids")
    for name in published_shapes("ldpnet", TINY):
        assert not is_ignored(name)
