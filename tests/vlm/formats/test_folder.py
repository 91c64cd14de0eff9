"""Folders of vision-language models: what is read of them, and how wrong ones are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from mobilellama.config import ConfigError, DataError, UserError
from mobilellama.vlm.formats.folder import is_vlm_folder, open_folder
from mobilellama.vlm.formats.key_maps import published_name
from mobilellama.vlm.formats.weights import WrongWeightsError
from mobilellama.vlm.model import parameter_shapes
from tests.vlm.helpers.published import (
    TINY,
    Files,
    draw,
    make_published,
    projector_shapes,
    published_shapes,
    stored,
    tower_shapes,
    write_weights,
)
from tests.vlm.helpers.tiny_vlm import make_tower

OLD_TABLES = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
    "model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(8),
    "model.vision_tower.vision_tower.vision_model.embeddings.position_ids": torch.arange(17)[None],
}
_TOWER = "model.vision_tower.vision_tower.vision_model."

Make = Callable[..., Path]


@pytest.fixture
def make(small_tokenizer: Path, tmp_path: Path) -> Make:
    """Makes a published folder."""

    def made(kind: str = "ldpnetv2", **options: Any) -> Path:
        return make_published(tmp_path / "published", small_tokenizer, kind, **options)

    return made


@pytest.mark.parametrize("files", ["bin", "shards", "safetensors"])
@pytest.mark.parametrize("kind", ["ldpnet", "ldpnetv2", "mlp2x_gelu"])
def test_a_published_folder_gives_every_weight_as_it_is(
    make: Make, kind: str, files: Files
) -> None:
    folder = make(kind, files=files, extra=OLD_TABLES)
    opened = open_folder(folder)
    shapes = parameter_shapes(opened.architecture)
    theirs = draw(published_shapes(kind, TINY))
    assert len(shapes) == len(theirs)
    for name in shapes:
        expected = theirs[published_name(name, kind)]
        assert torch.equal(opened.weights.stored(name), expected)
        assert torch.equal(opened.weights.parameter(name), expected.float())
    assert sorted(opened.weights.ignored) == sorted(OLD_TABLES)
    assert (opened.form, is_vlm_folder(folder)) == ("published", True)


def test_the_towers_sizes_are_read_off_its_weights_and_the_rest_off_config_json(make: Make) -> None:
    its = open_folder(make("ldpnet")).architecture
    assert its.vision == {
        "model_type": "clip_vision_model",
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_channels": 3,
        "image_size": 16,
        "patch_size": 4,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": 768,
    }
    assert (its.projector, its.patches, its.image_tokens, its.feature_layer) == (
        "ldpnet",
        16,
        4,
        -2,
    )
    assert (its.language["model_type"], its.width, its.max_seq_len) == ("llama", 64, 256)
    assert its.language["max_sequence_length"] == 256
    assert not [name for name in its.language if name.startswith(("mm_", "image_", "tune"))]
    assert (its.images.size_pixels, its.images.aspect_ratio) == (16, "pad")
    assert its.images.transparency == "ignored"


def test_the_aspect_ratio_is_the_folders_unless_another_is_asked_for(make: Make) -> None:
    folder = make(image_aspect_ratio="square")
    assert open_folder(folder).architecture.images.aspect_ratio == "square"
    assert open_folder(folder, aspect_ratio="pad").architecture.images.aspect_ratio == "pad"
    assert open_folder(make(image_aspect_ratio=None)).architecture.images.aspect_ratio == "square"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio = anyres: must be square or pad"),
        ({"mm_projector_type": "ldpnet"}, "mm_projector_type = ldpnet: must be"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end = true: must be false"),
        ({"mm_use_im_patch_token": True}, "mm_use_im_patch_token = true: must be false"),
        (
            {"mm_vision_select_feature": "cls_patch"},
            "mm_vision_select_feature = cls_patch: must",
        ),
        ({"vision_tower_type": "siglip"}, "vision_tower_type = siglip: must be clip"),
        ({"mm_vision_select_layer": -5}, "feature_layer = -5: must be between -4 and -1"),
    ],
)
def test_a_config_that_asks_for_what_mobilevlm_does_not_do_is_refused(
    make: Make, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_folder(make(**fields))


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("hidden_size", "64", "'64': must be a whole number"),
        ("intermediate_size", 128.0, "128.0: must be a whole number"),
        ("num_hidden_layers", None, "None: must be a whole number"),
        ("num_attention_heads", True, "True: must be a whole number"),
        ("num_key_value_heads", [4], "[4]: must be a whole number"),
        ("vocab_size", 0, "0: must be a whole number, 1 or more"),
        ("max_position_embeddings", "", "'': must be a whole number"),
        ("rms_norm_eps", "1e-6", "'1e-6': must be a number"),
        ("mm_vision_select_layer", "-2", "'-2': must be a whole number"),
    ],
)
def test_a_size_of_another_type_is_named_with_its_file(
    make: Make, name: str, value: Any, rule: str
) -> None:
    folder = make(**{name: value})
    with pytest.raises(ConfigError) as error:
        open_folder(folder)
    expected = f"{folder}/config.json: {name} = {rule}. Fix the file, or fetch it again."
    assert str(error.value) == expected


@pytest.mark.parametrize(("part", "name"), [("language", "hidden_size"), ("vision", "image_size")])
def test_in_our_form_a_size_is_named_with_its_part(make: Make, part: str, name: str) -> None:
    folder = make()
    values = {"model_type": "mobilellama_vlm", part: {name: "64"}}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=rf"config\.json: {part}\.{name} = '64': must be a whole"):
        open_folder(folder)


def test_every_missing_and_unexpected_weight_is_known_though_the_message_shows_three(
    make: Make,
) -> None:
    lost = ("model.mm_projector.peg", f"{_TOWER}encoder.layers.1", "model.norm")
    extra = {f"model.layers.{i}.self_attn.q_proj.bias": torch.zeros(64) for i in range(2)}
    with pytest.raises(WrongWeightsError) as error:
        open_folder(make(leave_out=lost, extra=extra))
    problems = error.value.problems
    names = [name for name in published_shapes("ldpnetv2", TINY) if name.startswith(lost)]
    assert problems["missing"] == sorted(names) and len(names) == 2 + 16 + 1
    assert problems["unexpected"] == sorted(extra)
    assert "19 (model.mm_projector.peg.peg.0.bias" in str(error.value)
    assert "2 (model.layers.0.self_attn.q_proj.bias" in str(error.value)


def test_a_weight_of_another_shape_is_named_with_both(make: Make) -> None:
    with pytest.raises(DataError, match=r"embed_tokens\.weight' is 800 x 64, .* 900 x 64 \(and 1"):
        open_folder(make(vocab_size=900))


def test_a_projector_that_no_name_tells_is_refused(make: Make) -> None:
    lost = ("model.mm_projector.peg",)
    with pytest.raises(DataError, match="its 4 weights of a projector"):
        open_folder(make(leave_out=lost, mm_projector_type="qformer"))


def test_a_published_folder_without_a_tower_takes_that_of_another(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    whole = open_folder(make())
    shutil.copytree(whole.folder, tmp_path / "whole")
    folder = make(leave_out=("model.vision_tower",))
    with pytest.raises(ConfigError, match=r"vision = null: is not given, and .* no vision tower"):
        open_folder(folder)
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 2}
    tower = make_tower(tmp_path / "tower", **sizes)
    opened = open_folder(folder, vision=str(tower))
    assert opened.architecture.vision["num_attention_heads"] == 2
    theirs = stored(tower)
    shapes = parameter_shapes(opened.architecture)
    for name in shapes:
        if name.startswith("vision_tower."):
            expected = theirs[name.removeprefix("vision_tower.")]
        else:
            expected = draw(published_shapes("ldpnetv2", TINY))[published_name(name, "ldpnetv2")]
        assert torch.equal(opened.weights.stored(name), expected), name
    inside = open_folder(tmp_path / "whole", vision=str(tower))
    name = "vision_tower.class_embedding".replace("class", "embeddings.class")
    assert not torch.equal(inside.weights.stored(name), opened.weights.stored(name)), (
        "of a whole folder its own weights are taken"
    )
    narrow = make_tower(tmp_path / "narrow", hidden_size=64, num_attention_heads=1)
    with pytest.raises(DataError, match="is 64 x 128, but its model wants 64 x 64"):
        open_folder(folder, vision=str(narrow))


def test_a_tower_whose_first_weights_are_missing_is_refused(make: Make) -> None:
    with pytest.raises(DataError, match="holds no whole CLIP tower"):
        open_folder(make(leave_out=(f"{_TOWER}embeddings.patch",)))


def test_what_is_no_vision_language_model_is_refused(tmp_path: Path, make: Make) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        open_folder(tmp_path / "nowhere")
    assert not is_vlm_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        open_folder(tmp_path / "empty")
    folder = make(model_type="llama")
    assert not is_vlm_folder(folder)
    with pytest.raises(ConfigError, match="is a model of type 'llama'"):
        open_folder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        open_folder(folder)


def test_our_form_names_the_field_it_lacks(make: Make) -> None:
    folder = make()
    values = {"model_type": "mobilellama_vlm", "language": {"model_type": "llama"}, "vision": {}}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"config\.json: lacks 'projector'"):
        open_folder(folder)


def test_damaged_files_are_named(make: Make) -> None:
    folder = make()
    file = folder / "pytorch_model.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"pytorch_model\.bin: cannot be read .*truncated"):
        open_folder(folder)
    torch.save({"lm_head.weight": print}, file)
    with pytest.raises(DataError, match="which would run code"):
        open_folder(folder)
    file.unlink()
    with pytest.raises(ConfigError, match=r"has no model\.safetensors or pytorch_model\.bin"):
        open_folder(folder)


def test_shards_that_the_index_names_must_all_be_there(make: Make) -> None:
    folder = make(files="shards")
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(UserError, match=r"pytorch_model-00002-of-00002\.bin\), which are not in"):
        open_folder(folder)


def test_a_gap_in_the_towers_layers_is_a_missing_layer_not_a_smaller_tower(make: Make) -> None:
    with pytest.raises(WrongWeightsError) as error:
        open_folder(make(leave_out=(f"{_TOWER}encoder.layers.1.",)))
    layer = [name for name in tower_shapes(TINY) if ".encoder.layers.1." in name]
    assert error.value.problems["missing"] == sorted(layer)


def test_a_projector_file_beside_the_weights_changes_nothing(make: Make) -> None:
    """A stage-1 folder may lie there too; weights are read from the model's files alone."""
    folder = make()
    torch.save(draw(projector_shapes("ldpnet", TINY), seed=7), folder / "mm_projector.bin")
    assert open_folder(folder).architecture.projector == "ldpnetv2"


def test_where_both_kinds_of_file_are_there_safetensors_are_read(make: Make) -> None:
    folder = make(files="safetensors")
    write_weights(folder, draw(published_shapes("ldpnetv2", TINY), seed=9), "bin")
    opened = open_folder(folder)
    name = "projector.position.bias"
    expected = draw(published_shapes("ldpnetv2", TINY))["model.mm_projector.peg.peg.0.bias"]
    assert torch.equal(opened.weights.stored(name), expected)
