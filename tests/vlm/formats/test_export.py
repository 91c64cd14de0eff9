"""What 'vlm export' writes: what was trained, in each form, and nothing that says otherwise."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from mobilellama.config import ConfigError
from mobilellama.pretrain.hf.weights import DTYPES
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.labels import encode_prompt
from mobilellama.sft.data.template import read_template
from mobilellama.sft.lora import inject
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.vlm.data.images import ImageProcessor
from mobilellama.vlm.data.labels import IMAGE
from mobilellama.vlm.formats.export_check import check_merged, check_weights
from mobilellama.vlm.formats.folder import open_folder
from mobilellama.vlm.formats.published_config import require_publishable
from mobilellama.vlm.formats.published_weights import published_names
from mobilellama.vlm.formats.trained import Trained, open_trained
from mobilellama.vlm.main import main
from mobilellama.vlm.model import LANGUAGE, PROJECTOR, TOWER, VisionLanguageModel, build_on
from tests.helpers.hf_tokenizers import write_tokenizer
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.hub_server import HubServer
from tests.pretrain.helpers.tiny import train_tiny
from tests.pretrain.hf.test_hub import hub_environment
from tests.vlm.helpers.llava_data import write_llava
from tests.vlm.helpers.published import (
    SIZES_1_7B,
    TINY,
    draw,
    make_published,
    projector_shapes,
    published_config,
    published_shapes,
    stored,
    vision_config,
)
from tests.vlm.helpers.tiny_vlm import make_language_model, make_tower, train_vlm

TOWER_NAME = "openai/clip-vit-tiny"


def export(checkpoint: Path, output: Path, *more: object) -> Path:
    arguments = ["--checkpoint", checkpoint, "--output", output, *more]
    assert main(["export", *map(str, arguments)]) == 0
    return output


@pytest.fixture(scope="module")
def ours(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in our form, which was imported."""
    root = tmp_path_factory.mktemp("ours")
    published = make_published(root / "published", small_tokenizer)
    assert main(["import", "--model", str(published), "--output", str(root / "ours")]) == 0
    return root / "ours"


def changed(folder: Path, copy: Path, part: str, **fields: Any) -> Path:
    """Copy a folder in our form with other fields in a part of its config.json."""
    shutil.copytree(folder, copy)
    values = json.loads((copy / "config.json").read_text())
    values[part] = values[part] | fields
    (copy / "config.json").write_text(json.dumps(values))
    return copy


# ---- of a folder, for which nothing need be trained


def test_a_folder_in_our_form_is_written_in_another_dtype(ours: Path, tmp_path: Path) -> None:
    wide = export(ours, tmp_path / "wide", "--dtype", "fp32", "--name", "Wide")
    before, after = stored(ours), stored(wide)
    assert before.keys() == after.keys()
    for name, value in after.items():
        assert value.dtype == torch.float32 and torch.equal(value, before[name].float())
    assert json.loads((wide / "config.json").read_text())["dtype"] == "float32"
    assert "# Wide" in (wide / "README.md").read_text()


def test_a_projector_alone_is_a_dict_with_the_originals_names(ours: Path, tmp_path: Path) -> None:
    folder = export(ours, tmp_path / "out", "--format", "projector")
    assert [path.name for path in folder.iterdir()] == ["mm_projector.bin"]
    content = torch.load(folder / "mm_projector.bin", weights_only=True)
    assert type(content) is dict
    theirs = draw(published_shapes("ldpnetv2", TINY))
    assert content.keys() == projector_shapes("ldpnetv2", TINY).keys()
    for name, value in content.items():
        assert torch.equal(value, theirs[name])


def test_what_the_published_form_cannot_say_is_refused_by_its_name(
    ours: Path, tmp_path: Path
) -> None:
    def message(part: str, *more: object, **fields: Any) -> str:
        folder = changed(ours, tmp_path / f"x{len(list(tmp_path.iterdir()))}", part, **fields)
        with pytest.raises(ConfigError) as error:
            export(folder, tmp_path / "out", "--format", "mobilevlm", *more)
        return str(error.value)

    rope = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    assert "rope_scaling" in message("language", **rope)
    text = message("images", aspect_ratio="squash")
    assert "image aspect ratio = squash: must be square or pad. Export with --format hf" in text
    text = message("published", "--vision_tower", "mine/tower")
    assert "vision_tower = mine/tower: must begin with openai or laion, or be a folder" in text
    assert not (tmp_path / "out").exists()


def test_a_projector_that_is_not_the_originals_is_refused_or_said(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(ours, tmp_path / "mean", "images")
    config = json.loads((folder / "config.json").read_text())
    del config["pooling"]  # of a folder from before the field
    (folder / "config.json").write_text(json.dumps(config))
    assert open_folder(folder).architecture.image_tokens == 4
    with pytest.raises(
        ConfigError, match=r"projector's pooling = 2x2: is not the original's, whic"
    ):
        export(folder, tmp_path / "out", "--format", "mobilevlm")
    capsys.readouterr()
    export(folder, tmp_path / "projector", "--format", "projector")
    assert "/mm_projector.bin --projector.pooling 2x2" in capsys.readouterr().out
    export(ours, tmp_path / "original", "--format", "projector")
    assert "--projector.pooling" not in capsys.readouterr().out
    again = export(folder, tmp_path / "again")
    assert open_folder(again).architecture == open_folder(folder).architecture


def test_a_former_squeeze_is_read_off_the_weights_and_not_written_as_published(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    """A quarter of 80 is 20, which the original rounds to 24."""
    its = replace(TINY, width=80, heads=4)
    for narrow, form in ((24, "rounded"), (20, "quarter")):
        published = make_published(tmp_path / f"published_{form}", small_tokenizer, "ldpnet", its)
        weights = stored(published)
        for name in weights:
            if ".1.fc1." in name:
                weights[name] = weights[name][:narrow].clone()
            elif name.endswith(".1.fc2.weight"):
                weights[name] = weights[name][:, :narrow].clone()
        torch.save(weights, published / "pytorch_model.bin")
        assert open_folder(published).architecture.squeeze == form
        output = tmp_path / form
        assert main(["import", "--model", str(published), "--output", str(output)]) == 0
    export(tmp_path / "rounded", tmp_path / "back", "--format", "mobilevlm")
    with pytest.raises(ConfigError, match=r"projector's squeeze = quarter: is not the original's"):
        export(tmp_path / "quarter", tmp_path / "out", "--format", "mobilevlm")


def test_that_images_are_turned_is_said_beside_the_published_files(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = changed(ours, tmp_path / "other", "images", orientation="as_shown")
    folder = export(other, tmp_path / "out", "--format", "mobilevlm")
    assert "the original code does not turn them" in capsys.readouterr().err
    assert open_folder(folder).architecture.images.orientation == "as_shown"
    again = export(other, tmp_path / "again")
    assert open_folder(again).architecture.images.orientation == "as_shown"
    processor = json.loads((again / "preprocessor_config.json").read_text())
    assert processor["orientation"] == "as_shown"
    assert "turned first as their EXIF orientation says" in (again / "README.md").read_text()
    plain = json.loads((ours / "preprocessor_config.json").read_text())
    assert "orientation" not in plain


@pytest.mark.parametrize(
    "fields", [{"num_attention_heads": 8}, {"hidden_act": "gelu"}, {"layer_norm_eps": 1e-6}]
)
def test_what_no_weight_of_the_tower_shows_is_in_the_published_config(
    ours: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    other = changed(ours, tmp_path / "other", "vision", **fields)
    folder = export(other, tmp_path / "out", "--format", "mobilevlm")
    config = json.loads((folder / "config.json").read_text())
    assert config["vision_config"] == vision_config(TINY) | fields
    assert open_folder(folder).architecture.vision == vision_config(TINY) | fields


def test_another_familys_language_model_or_tower_is_refused(ours: Path, tmp_path: Path) -> None:
    trained = open_trained(str(ours))

    def message(**fields: Any) -> str:
        other = replace(trained, architecture=replace(trained.architecture, **fields))
        with pytest.raises(ConfigError) as error:
            require_publishable(other, None)
        return str(error.value)

    language, vision = trained.architecture.language, trained.architecture.vision
    assert "language model = phi: must be llama" in message(
        language=language | {"model_type": "phi"}
    )
    siglip = vision | {"model_type": "siglip_vision_model"}
    assert "vision tower = siglip_vision_model: must be clip" in message(vision=siglip)


def test_the_towers_name_is_the_imports_or_given_or_that_of_the_true_tower(
    ours: Path, tmp_path: Path
) -> None:
    folder = export(ours, tmp_path / "a", "--format", "mobilevlm")
    values = json.loads((folder / "config.json").read_text())
    assert values["mm_vision_tower"] == "openai/clip-vit-large-patch14-336"
    folder = export(
        ours, tmp_path / "b", "--format", "mobilevlm", "--vision_tower", "laion/some-clip"
    )
    values = json.loads((folder / "config.json").read_text())
    assert values["mm_vision_tower"] == "laion/some-clip"
    unnamed = changed(ours, tmp_path / "c", "published")
    config = json.loads((unnamed / "config.json").read_text())
    del config["published"]
    (unnamed / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="vision_tower = null: is not given, and the tower"):
        export(unnamed, tmp_path / "d", "--format", "mobilevlm")


def test_the_true_tower_needs_no_name(ours: Path) -> None:

    trained = open_trained(str(ours))
    architecture = replace(
        trained.architecture,
        vision=vision_config(SIZES_1_7B),
        images=ImageProcessor(size_pixels=336),
    )
    true = replace(trained, architecture=architecture, published={})
    assert require_publishable(true, None) == "openai/clip-vit-large-patch14-336"


def test_a_tokenizer_of_another_kind_has_no_place_in_the_published_form(
    ours: Path, tmp_path: Path
) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer", "byte_level", specials=["</s>"])
    with pytest.raises(ConfigError, match=r"tokenizer = .*: must be a sentencepiece model"):
        export(ours, tmp_path / "out", "--format", "mobilevlm", "--tokenizer", str(tokenizer))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "mobilevlm", "--push", "a/b"), "push = a/b: takes our form"),
        (("--safetensors", "true"), "safetensors = true: has no effect with --format hf"),
        (("--vision_tower", "openai/x"), "vision_tower = openai/x: has no effect"),
        (("--base", "mine"), "base = mine: must name the owner"),
        (("--private", "true"), "private = true: nothing is pushed"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    ours: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(ours, tmp_path / "out", *arguments)


def test_images_of_another_mean_are_said_beside_the_published_files(
    ours: Path, tmp_path: Path
) -> None:
    """Another mean is in no published field; our reader finds it beside the weights."""
    other = changed(ours, tmp_path / "other", "images", mean=[0.5, 0.5, 0.5])
    folder = export(other, tmp_path / "out", "--format", "mobilevlm")
    assert open_folder(folder).architecture.images.mean == (0.5, 0.5, 0.5)


def test_the_slow_tokenizers_files_say_what_the_published_ones_do(
    ours: Path, tmp_path: Path
) -> None:
    folder = export(ours, tmp_path / "out", "--format", "mobilevlm")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "LlamaTokenizer"
    assert (config["add_bos_token"], config["add_eos_token"]) == (True, False)
    assert config["bos_token"]["content"] == "<s>" and config["pad_token"] == "<unk>"
    assert json.loads((folder / "special_tokens_map.json").read_text())["pad_token"] == "<unk>"
    generation = json.loads((folder / "generation_config.json").read_text())
    ids = [generation[f"{name}_token_id"] for name in ("bos", "eos", "pad")]
    assert ids == [1, 2, 0]


def test_a_tied_head_is_written_out_for_the_original_which_ties_none(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    ours, published = tmp_path / "ours", tmp_path / "published"
    make_published(published, small_tokenizer)
    assert main(["import", "--model", str(published), "--output", str(ours)]) == 0
    tied = changed(ours, tmp_path / "tied", "language", tie_word_embeddings=True)
    weights = load_file(tied / "model.safetensors")
    del weights["language_model.lm_head.weight"]
    save_file(weights, tied / "model.safetensors", metadata={"format": "pt"})
    folder = export(tied, tmp_path / "out", "--format", "mobilevlm")
    found = stored(folder)
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False


def test_the_check_sees_a_single_wrong_bit_and_another_computation(
    ours: Path, tmp_path: Path
) -> None:
    trained = open_trained(str(ours))
    folder = export(ours, tmp_path / "out")
    check_weights(folder, trained, dtype="bf16")
    weights = load_file(folder / "model.safetensors")
    weights["projector.position.bias"].view(torch.int16)[7] ^= 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"'projector\.position\.bias' is not as it was"):
        check_weights(folder, trained, dtype="bf16")
    other = changed(ours, tmp_path / "other", "images", aspect_ratio="square")
    with pytest.raises(RuntimeError, match="is read with another aspect_ratio"):
        check_weights(other, trained, dtype="bf16")


def test_a_folder_that_is_not_read_again_says_so(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(ours, tmp_path / "a", "--check", "false")
    assert "not read again; --check true does" in capsys.readouterr().err
    export(ours, tmp_path / "b")
    assert "checked: the folder is read as what was trained" in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--safetensors", "true")])
def test_a_full_disk_is_told_with_the_folder_and_leaves_nothing(
    ours: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError) as error:
            export(ours, tmp_path / "out", "--format", "mobilevlm", *more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(tmp_path / "out"))
    assert not [*tmp_path.iterdir()]


# ---- of runs


class Runs:
    """A first stage, a second one and one with LoRA, after a few steps each, and where it began."""

    def __init__(self, root: Path, tokenizer: Path) -> None:
        self.tower = make_tower(root / "tower", hidden_size=64, num_attention_heads=1)
        self.llm = make_language_model(
            root / "llm", tokenizer, hidden_size=64, num_attention_heads=4
        )
        self.align, self.full, self.lora = (root / name for name in ("align", "full", "lora"))
        captions, images = write_llava(root / "captions", captions=True)
        first = {"data.template": "plain", "train.language_model": False}
        first |= {"data.grouping": "none", "data.aspect_ratio": "square", "vision": self.tower}
        first |= {"train.max_steps": 2, "projector.kind": "ldpnet"}
        run_ranks(train_vlm, 1, self.llm, captions, images, self.align, first)
        data, images = write_llava(root / "data")
        more = {"train.max_steps": 2, "projector.kind": None}
        run_ranks(train_vlm, 1, self.align, data, images, self.full, more)
        more |= {"lora.rank": 4, "lora.alpha": 8, "optimizer.projector_learning_rate": 1e-3}
        run_ranks(train_vlm, 1, self.align, data, images, self.lora, more)


@pytest.fixture(scope="module")
def runs(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), small_tokenizer)


def weights_of(trained: Trained) -> dict[str, torch.Tensor]:
    return {name: trained.weights.parameter(name) for name in trained.shapes}


def assert_equal(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["align", "full", "lora"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_our_form_holds_every_parameter_of_the_run_rounded_once(
    runs: Runs, tmp_path: Path, stage: str, dtype: str
) -> None:
    run = getattr(runs, stage)
    folder = export(run, tmp_path / "out", "--dtype", dtype)
    expected = weights_of(open_trained(str(run)))
    assert_equal(stored(folder), {n: v.to(DTYPES[dtype]) for n, v in expected.items()})
    opened = open_folder(folder)
    assert opened.architecture == open_trained(str(run)).architecture
    again = open_trained(str(folder))
    assert again.template.sha256 == open_trained(str(run)).template.sha256


@pytest.mark.slow
def test_what_did_not_train_is_written_as_it_came(runs: Runs, tmp_path: Path) -> None:
    found = stored(export(runs.align, tmp_path / "out", "--dtype", "fp32"))
    for prefix, folder in ((TOWER, runs.tower), (LANGUAGE, runs.llm)):
        for name, value in stored(folder).items():
            assert torch.equal(found[prefix + name], value), name
    trained = stored(export(runs.full, tmp_path / "full", "--dtype", "fp32"))
    name = f"{LANGUAGE}model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(trained[name], found[name])
    assert not torch.equal(trained[f"{PROJECTOR}mlp.0.weight"], found[f"{PROJECTOR}mlp.0.weight"])


@pytest.mark.slow
def test_merged_weights_are_the_bases_plus_the_scaled_product(runs: Runs, tmp_path: Path) -> None:
    found = stored(export(runs.lora, tmp_path / "out", "--dtype", "fp32"))
    checkpoint = open_trained(str(runs.lora)).checkpoint
    assert checkpoint is not None
    base, moved = stored(runs.llm), 0
    for name, before in base.items():
        if not name.endswith("_proj.weight"):
            assert torch.equal(found[LANGUAGE + name], before), name
            continue
        layer = f"{LANGUAGE}{name.removesuffix('.weight')}"
        rows, columns = before.shape
        a = checkpoint.parameter(f"{layer}.lora_A.default.weight", torch.Size((4, columns)))
        b = checkpoint.parameter(f"{layer}.lora_B.default.weight", torch.Size((rows, 4)))
        expected = before.double() + 8 / 4 * b.double() @ a.double()
        torch.testing.assert_close(found[LANGUAGE + name].double(), expected, rtol=0, atol=1e-7)
        moved += not torch.equal(found[LANGUAGE + name], before)
    assert moved == 14, "seven linear layers of two decoder layers"


@pytest.mark.slow
def test_the_merged_models_losses_are_those_of_base_plus_adapter(runs: Runs) -> None:
    trained = open_trained(str(runs.lora))
    assert trained.checkpoint is not None
    assert check_merged(trained) < 1e-5
    cpu = torch.device("cpu")
    adapt = partial(inject, config=trained.lora, prefix=LANGUAGE)
    side_by_side = build_on(cpu, trained.architecture, adapt=adapt).eval()
    merged = build_on(cpu, trained.architecture).eval()
    base = build_on(cpu, trained.architecture).eval()
    with torch.no_grad():
        for name, value in side_by_side.named_parameters():
            value.copy_(trained.checkpoint.parameter(name, value.shape))
        for name, value in merged.named_parameters():
            value.copy_(trained.weights.parameter(name))
            base.get_parameter(name).copy_(value)
        for name, value in stored(runs.llm).items():
            base.language_model.get_parameter(name).copy_(value)
    expected, found, without = (losses(model) for model in (side_by_side, merged, base))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (without - expected).abs().max() > 1e-3, "the adapter does something"


@torch.no_grad()
def losses(model: VisionLanguageModel) -> torch.Tensor:
    """Return the loss sums of three drawn samples: with two images, one and none."""
    tokens, generator = model.config.image_tokens, torch.Generator().manual_seed(1)
    ids = torch.randint(3, 800, (3, 40), generator=generator)
    ids[0, 5 : 5 + tokens], ids[0, 20 : 20 + tokens] = IMAGE, IMAGE
    ids[1, 9 : 9 + tokens] = IMAGE
    labels = torch.randint(3, 800, (3, 40), generator=generator)
    pixels = torch.randint(256, (3, 3, 16, 16), generator=generator).to(torch.uint8)
    return model(ids, labels, pixel_values=pixels).sample_loss_sums


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["align", "full", "lora"])
def test_the_published_form_has_exactly_the_published_names_and_fields(
    runs: Runs, tmp_path: Path, stage: str
) -> None:
    run = getattr(runs, stage)
    arguments = ("--format", "mobilevlm", "--vision_tower", TOWER_NAME)
    folder = export(run, tmp_path / "out", *arguments, "--max_shard_size_gb", "2e-4")
    trained = open_trained(str(run))
    expected, names = weights_of(trained), published_names(trained.architecture)
    found = stored(folder)
    assert_equal(found, {their: expected[our].bfloat16() for their, our in names.items()})
    assert {name for name in found if "mm_projector" in name} == {*projector_shapes("ldpnet", TINY)}
    values = json.loads((folder / "config.json").read_text())
    fields = {*published_config("ldpnet", TINY)} - {"max_sequence_length"}
    assert set(values) == fields  # MobileLLaMA-1.4B's config alone has that one
    assert values["architectures"] == ["MobileLlamaForCausalLM"]
    assert values["model_type"] == "mobilevlm" and values["torch_dtype"] == "bfloat16"
    assert values["image_aspect_ratio"] == ("square" if stage == "align" else "pad")
    assert values["tune_mm_mlp_adapter"] is (stage == "align")
    assert (values["mm_hidden_size"], values["mm_projector_type"]) == (64, "ldpnet")
    assert (values["mm_vision_tower"], values["mm_vision_select_layer"]) == (TOWER_NAME, -2)
    assert (values["hidden_size"], values["num_key_value_heads"]) == (64, 4)
    assert (values["rope_theta"], values["rms_norm_eps"]) == (10000.0, 1e-6)


@pytest.mark.slow
def test_what_was_exported_is_a_start_for_the_next_run(runs: Runs, tmp_path: Path) -> None:
    data, images = write_llava(tmp_path / "data")
    arguments = ("--format", "mobilevlm", "--vision_tower", TOWER_NAME, "--dtype", "fp32")
    published = export(runs.full, tmp_path / "published", *arguments)
    own = export(runs.full, tmp_path / "hf", "--dtype", "fp32")
    projector = export(runs.align, tmp_path / "projector", "--format", "projector")
    same = {"train.max_steps": 1, "projector.kind": None}
    starts: dict[str, tuple[Path, dict[str, Any]]] = {
        "run": (runs.full, same),
        "published": (published, same),
        "hf": (own, same),
        "projector": (
            runs.llm,
            same | {"vision": runs.tower, "projector.weights": projector / "mm_projector.bin"},
        ),
    }
    for name, (init, fields) in starts.items():
        run_ranks(train_vlm, 1, init, data, images, tmp_path / name / "run", fields)
    first = {n: first_loss(tmp_path / n / "run") for n in starts}
    assert first["run"] == first["published"] == first["hf"] != first["projector"]


def first_loss(run: Path) -> float:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return next(value["loss"] for value in map(json.loads, lines) if "loss" in value)


@pytest.mark.slow
def test_the_card_says_what_was_trained_on_what(runs: Runs, tmp_path: Path) -> None:
    def card(run: Path, name: str, *more: str) -> str:
        return (export(run, tmp_path / name, "--check", "false", *more) / "README.md").read_text()

    text = card(runs.lora, "lora", "--base", "someone/llm", "--license", "mit")
    assert "pipeline_tag: image-text-to-text" in text and "license: mit" in text
    assert "base_model: someone/llm" in text and "library_name: mobilellama" in text
    assert "| began from (init) | `align` |" in text, "a path of this machine by its name"
    assert str(tmp_path.parent) not in text
    assert "LoRA of rank 4, alpha 8, dropout 0.05 on the language model's q_proj" in text
    assert "| learning rate of the projector | warm-up to 0.001 over" in text
    assert "mobilellama vlm chat lora --image photo.jpg" in text
    assert "`<image>` stands for 4 image tokens. Images are padded" in text
    assert "It learnt from the samples of `records.json`: it" in text
    assert "nats an answer token" in text
    first = card(runs.align, "align")
    assert "It is a first stage" in first and "| trained | the projector |" in first
    assert "began from (vision)" in first
    theirs = card(runs.full, "theirs", "--format", "mobilevlm", "--vision_tower", TOWER_NAME)
    assert "names and keys of the published MobileVLM" in theirs


@pytest.mark.slow
def test_transformers_reads_our_tokenizer_with_the_chat_template(
    runs: Runs, tmp_path: Path
) -> None:
    folder = export(runs.full, tmp_path / "out")
    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    messages = [{"role": "user", "content": "What is  this?"}]
    found = loaded.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    template, tokenizer = read_template("vicuna_v1"), open_tokenizer(folder)
    turns = (Turn("user", "What is  this?"),)
    assert found == encode_prompt(template, tokenizer, turns).tolist()
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert processor["image_processor_type"] == "CLIPImageProcessor"
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2


@pytest.mark.slow
def test_checkpoints_of_other_stages_are_sent_to_their_own_export(
    small_dataset: Path, tmp_path: Path
) -> None:
    run_ranks(train_tiny, 1, small_dataset, tmp_path / "run", {"train.max_steps": 1})
    with pytest.raises(ConfigError, match=r"pretrain run'\. Export it with 'mobilellama pretrain"):
        export(tmp_path / "run", tmp_path / "out")
    with pytest.raises(ConfigError, match="is neither a checkpoint nor a run's folder"):
        export(tmp_path, tmp_path / "out")


@pytest.mark.slow
def test_an_export_into_the_run_that_is_read_is_refused(runs: Runs) -> None:
    for read in (runs.full, next((runs.full / "checkpoints").glob("step-*"))):
        with pytest.raises(ConfigError, match=r"output = .*/exported: lies within .*, which is re"):
            export(read, runs.full / "exported")
    assert not (runs.full / "exported").exists()


@pytest.mark.slow
def test_a_checkpoint_out_of_its_run_needs_tokenizer_and_template(
    runs: Runs, small_tokenizer: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs.full, run)
    (run / "template.yaml").unlink()
    with pytest.raises(ConfigError, match="template = null: is not given"):
        export(run, tmp_path / "out")
    export(run, tmp_path / "out", "--template", "vicuna_v1")
    moved = tmp_path / "moved"
    shutil.copytree(run / "frozen", tmp_path / "frozen")
    shutil.copytree(run / "checkpoints/step-2", tmp_path / "steps/step-2")
    with pytest.raises(ConfigError, match=r"tokenizer = null: .* lies in no run that has one"):
        export(tmp_path / "steps/step-2", moved, "--template", "vicuna_v1")
    tokenizer = ("--tokenizer", str(small_tokenizer))
    export(tmp_path / "steps/step-2", moved, "--template", "vicuna_v1", *tokenizer)
    assert_equal(stored(moved), stored(tmp_path / "out"))


@pytest.mark.slow
def test_the_folder_is_pushed_as_it_is_and_again_by_pretrain_push(
    ours: Path, tmp_path: Path
) -> None:
    def run(url: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mobilellama", *map(str, arguments)],
            env=os.environ | hub_environment(url, tmp_path),
            capture_output=True,
            text=True,
            timeout=120,
        )

    folder = tmp_path / "out"
    with HubServer(owners=("tester",)) as hub:
        done = run(
            hub.url, "vlm", "export", "--checkpoint", ours, "--output", folder,
            "--push", "tester/eyes",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        repository = hub.repositories["tester/eyes"]
        assert {name: file.content for name, file in repository.files.items()} == files
        assert "hf download tester/eyes --local-dir eyes" in (folder / "README.md").read_text()
        done = run(hub.url, "pretrain", "push", "--folder", folder, "--repo", "tester/eyes")
        assert done.returncode == 0 and "had these files already" in done.stdout, done.stderr
