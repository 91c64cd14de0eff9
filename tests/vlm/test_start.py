"""What a run may start from, with the very weights of each; what does not fit is refused."""

import json
import resource
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from mobilellama.config import ConfigError, DataError, UserError
from mobilellama.distributed import Ranks
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain.config import RunConfig
from mobilellama.pretrain.hf.hub_names import open_on_all
from mobilellama.run_folder import RunFolder
from mobilellama.run_record import Origin
from mobilellama.sft.start import open_language_model
from mobilellama.tokenizers.tokenizer import Tokenizer
from mobilellama.vlm.config import Config, ImagesConfig, ImageTextData, ProjectorConfig
from mobilellama.vlm.data.images import AspectRatio
from mobilellama.vlm.data.orientation import Orientation
from mobilellama.vlm.formats.key_maps import published_name, published_projectors
from mobilellama.vlm.formats.published_tower import named_tower
from mobilellama.vlm.model import LANGUAGE, PROJECTOR, TOWER, VisionLanguageModel, parameter_shapes
from mobilellama.vlm.projectors.rules import Pooling, ProjectorRules, Squeeze
from mobilellama.vlm.projectors.table import build_projector
from mobilellama.vlm.start import VisionLanguageStart, open_start
from mobilellama.vlm.tuning import first_weights
from tests.helpers.hub_place import at_hub, publish
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.hub_server import HubServer
from tests.pretrain.helpers.tiny import train_tiny
from tests.sft.helpers.tiny_sft import finetune_tiny, prepare_tiny
from tests.vlm.helpers.llava_data import write_llava
from tests.vlm.helpers.published import (
    TINY,
    draw,
    make_published,
    projector_shapes,
    published_shapes,
    stored,
)
from tests.vlm.helpers.tiny_vlm import VISION, make_language_model, make_tower, train_vlm

_IO = Path("/proc/self/io")


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tower(tmp_path_factory.mktemp("vision") / "tower")


@pytest.fixture(scope="module")
def language_model(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_language_model(tmp_path_factory.mktemp("language") / "llm", small_tokenizer)


def start_from(
    init: Path | str,
    vision: Path | None = None,
    kind: Any = "ldpnetv2",
    *,
    weights: Path | None = None,
    aspect_ratio: AspectRatio = "pad",
    orientation: Orientation | None = None,
    pooling: Pooling | None = None,
    squeeze: Squeeze | None = None,
    run: str = "nowhere/run",
) -> VisionLanguageStart:
    config = Config(
        init=str(init),
        vision=None if vision is None else str(vision),
        run=RunConfig(folder=run),
        data=ImageTextData(path="none.json", images="none", aspect_ratio=aspect_ratio),
        images=ImagesConfig(orientation=orientation),
        projector=ProjectorConfig(
            kind=kind,
            weights=None if weights is None else str(weights),
            pooling=pooling,
            squeeze=squeeze,
        ),
    )
    return open_start(config, RunFolder(run))


def values_of(start: VisionLanguageStart, prefix: str) -> dict[str, torch.Tensor]:
    """Return the weights of a part by their names after the prefix, fp32."""
    weights, shapes = start.require_weights(), parameter_shapes(start.architecture)
    found = {}
    for name in weights.names():
        value = weights.parameter(name)
        assert weights.shape(name) == value.shape == shapes[name], name
        assert weights.stored(name).dtype == weights.dtype(name)
        assert torch.equal(weights.stored(name).float(), value), name
        if name.startswith(prefix):
            found[name.removeprefix(prefix)] = value
    return found


def assert_same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value.float()), name


def test_a_language_model_and_a_tower_give_their_weights_and_no_projector(
    language_model: Path, tower: Path
) -> None:
    start = start_from(language_model, tower)
    assert_same(values_of(start, LANGUAGE), stored(language_model))
    assert_same(values_of(start, TOWER), stored(tower))
    assert not values_of(start, PROJECTOR)
    assert start.origin == Origin(init=str(language_model), vision=str(tower))
    assert (start.architecture.image_tokens, start.architecture.width) == (144, 32)


def test_new_projectors_follow_the_original_unless_another_form_is_asked_for(
    language_model: Path, tower: Path, tmp_path: Path
) -> None:
    its = start_from(language_model, tower).architecture
    assert (its.squeeze, its.pooling, its.image_tokens) == ("rounded", "12x12", 144)
    its = start_from(language_model, tower, pooling="2x2").architecture
    assert (its.pooling, its.image_tokens) == ("2x2", 4)
    odd = make_tower(tmp_path / "odd", image_size=12)
    assert start_from(language_model, odd).architecture.image_tokens == 144
    with pytest.raises(ConfigError, match=r"patches of an image = 9: .* for the pooling 2x2"):
        start_from(language_model, odd, pooling="2x2")
    its = start_from(language_model, odd, kind="ldpnet", squeeze="quarter").architecture
    assert (its.squeeze, its.image_tokens) == ("quarter", 4)


def test_a_first_stages_file_shows_the_form_of_its_squeeze(
    small_tokenizer: Path, tower: Path, tmp_path: Path
) -> None:
    llm = make_language_model(
        tmp_path / "llm", small_tokenizer, hidden_size=48, num_attention_heads=4
    )
    keys = published_projectors()["ldpnet"]
    forms: dict[Squeeze, int] = {"quarter": 12, "rounded": 16}
    for form, narrow in forms.items():
        rules = ProjectorRules(squeeze=form)
        with torch.device("meta"):
            made = build_projector("ldpnet", vision_width=32, width=48, rules=rules)
        weights = {f"model.mm_projector.{keys[n]}": torch.zeros(p.shape)
                   for n, p in made.named_parameters()}  # fmt: skip
        torch.save(weights, tmp_path / f"{form}.bin")
        start = start_from(llm, tower, kind=None, weights=tmp_path / f"{form}.bin")
        assert start.architecture.squeeze == form
        name = f"{PROJECTOR}blocks.0.squeeze.reduce.bias"
        assert parameter_shapes(start.architecture)[name] == (narrow,)
    with pytest.raises(DataError, match=r"'.*fc1\.weight' is 16 x 48 x 1 x 1, but .* 12 x 48"):
        start_from(llm, tower, weights=tmp_path / "rounded.bin", kind=None, squeeze="quarter")


def test_the_form_of_what_a_run_starts_from_cannot_be_changed(
    small_tokenizer: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_published(tmp_path / "published", small_tokenizer, "ldpnetv2")
    assert start_from(folder, kind=None).architecture.image_tokens == 144
    with pytest.raises(ConfigError, match=r"projector\.pooling = 2x2: must be 12x12"):
        start_from(folder, kind=None, pooling="2x2")
    start_from(folder, kind=None, squeeze="quarter")
    assert "projector.squeeze has no effect on a projector of kind ldpnetv2" in caplog.text


def test_new_models_turn_photographs_and_published_ones_do_not(
    language_model: Path, tower: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    def orientation(*parts: Any, **fields: Any) -> str:
        return start_from(*parts, **fields).architecture.images.orientation

    assert orientation(language_model, tower) == "as_shown"
    assert orientation(language_model, tower, orientation="as_stored") == "as_stored"
    folder = make_published(tmp_path / "published", small_tokenizer, "ldpnetv2")
    assert orientation(folder, kind=None) == "as_stored"
    assert orientation(folder, kind=None, orientation="as_shown") == "as_shown"


def test_new_projectors_are_functions_of_the_seed(language_model: Path, tower: Path) -> None:
    start = start_from(language_model, tower)
    config = Config(
        init=str(language_model),
        run=RunConfig(folder="x"),
        data=ImageTextData(path="none.json", images="none"),
    )
    with torch.device("meta"):
        model = VisionLanguageModel(start.architecture)
    draws = [
        first_weights(start, config, model).parameter("projector.mlp.0.weight") for _ in range(2)
    ]
    assert torch.equal(*draws) and draws[0].abs().max() <= 32**-0.5


@pytest.mark.parametrize("names", ["transformers_5", "transformers_4", "whole", "whole_terse"])
def test_a_tower_is_found_alone_or_in_a_whole_clip_model(
    tower: Path, language_model: Path, tmp_path: Path, names: str
) -> None:
    weights, folder = stored(tower), tmp_path / "clip"
    if names == "transformers_5":
        shutil.copytree(tower, folder)
    elif names == "transformers_4":
        shutil.copytree(tower, folder)
        old = {f"vision_model.{name}": value for name, value in weights.items()}
        old["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
        save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
        ids = {"vocab_size": 99, "num_attention_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
        model = CLIPModel(CLIPConfig(vision_config=VISION, text_config=text | ids))
        model.vision_model.load_state_dict(weights)
        model.save_pretrained(folder)
        if names == "whole_terse":  # as older versions: what the class has by itself is left out
            config = json.loads((folder / "config.json").read_text())
            config["vision_config"] = {"model_type": "clip_vision_model", **VISION}
            (folder / "config.json").write_text(json.dumps(config))
    start = start_from(language_model, folder)
    assert_same(values_of(start, TOWER), weights)
    assert start.architecture.vision["model_type"] == "clip_vision_model"
    assert start.architecture.image_pixels == 16


def test_a_config_that_leaves_out_the_classs_own_sizes_is_filled_in(
    language_model: Path, tmp_path: Path
) -> None:
    """CLIPVisionConfig's own are 768 wide, 12 layers and patches of 32: only the rest is said."""
    few = {"intermediate_size": 8, "num_attention_heads": 2, "image_size": 64}
    make_tower(tmp_path / "clip", hidden_size=768, num_hidden_layers=1, patch_size=32, **few)
    path = tmp_path / "clip" / "config.json"
    terse = {"model_type": "clip_vision_model", "num_hidden_layers": 1} | few
    path.write_text(json.dumps(terse))
    its = start_from(language_model, tmp_path / "clip").architecture
    assert (its.vision_width, its.patches, its.vision["patch_size"]) == (768, 4, 32)


def test_a_siglip_tower_may_be_one_too(language_model: Path, tmp_path: Path) -> None:
    model = SiglipVisionModel(SiglipVisionConfig(**VISION))
    model.save_pretrained(tmp_path / "siglip")
    start = start_from(language_model, tmp_path / "siglip", aspect_ratio="squash")
    assert_same(values_of(start, TOWER), stored(tmp_path / "siglip"))


def test_a_head_that_is_the_embedding_is_no_weight_of_its_own(
    tower: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    sizes: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "vocab_size": 800, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads))
    model.save_pretrained(tmp_path / "llm")
    Tokenizer(small_tokenizer).save(tmp_path / "llm")
    expected = dict(model.named_parameters())
    assert "lm_head.weight" not in expected
    assert_same(values_of(start_from(tmp_path / "llm", tower), LANGUAGE), expected)
    twice = stored(tmp_path / "llm")  # some files hold it twice
    twice["lm_head.weight"] = twice["model.embed_tokens.weight"].clone()
    save_file(twice, tmp_path / "llm/model.safetensors", metadata={"format": "pt"})
    assert_same(values_of(start_from(tmp_path / "llm", tower), LANGUAGE), expected)


@pytest.mark.parametrize("kind", ["ldpnet", "ldpnetv2", "mlp2x_gelu"])
def test_a_published_folder_gives_all_three_parts(
    small_tokenizer: Path, tmp_path: Path, kind: str
) -> None:
    folder = make_published(tmp_path / "published", small_tokenizer, kind)
    start = start_from(folder, kind=None)
    theirs = draw(published_shapes(kind, TINY))
    for prefix in (TOWER, PROJECTOR, LANGUAGE):
        for name, value in values_of(start, prefix).items():
            assert torch.equal(value, theirs[published_name(prefix + name, kind)].float())
    assert start.architecture.projector == kind
    assert start.tokenizer.vocab_size == 800
    with pytest.raises(ConfigError, match=r"vision = .*: has no config\.json"):
        start_from(folder, tmp_path)


def test_a_first_stages_projector_goes_before_that_of_the_model(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    folder = make_published(tmp_path / "published", small_tokenizer, "ldpnet")
    theirs = draw(projector_shapes("ldpnet", TINY), seed=5)
    torch.save(theirs, tmp_path / "mm_projector.bin")
    start = start_from(folder, kind=None, weights=tmp_path / "mm_projector.bin")
    for name, value in values_of(start, PROJECTOR).items():
        assert torch.equal(value, theirs[published_name(PROJECTOR + name, "ldpnet")].float())
    assert start.origin.projector == str(tmp_path / "mm_projector.bin")
    assert start.fingerprint != start_from(folder, kind=None).fingerprint


def test_a_first_stages_projector_says_its_kind_whatever_precedes_its_names(
    language_model: Path, tower: Path, tmp_path: Path
) -> None:
    """LoRA runs of the original write base_model.model. before each."""
    shapes = {
        f"base_model.model.model.mm_projector.{name}": shape
        for name, shape in {
            "0.weight": (32, 32), "0.bias": (32,), "2.weight": (32, 32), "2.bias": (32,)
        }.items()
    }  # fmt: skip
    theirs = draw(shapes, dtype=torch.float32)
    torch.save(theirs, tmp_path / "p.bin")
    start = start_from(language_model, tower, None, weights=tmp_path / "p.bin")
    assert (start.architecture.projector, start.architecture.image_tokens) == ("mlp2x_gelu", 16)
    found = values_of(start, PROJECTOR)
    assert torch.equal(found["mlp.2.bias"], theirs["base_model.model.model.mm_projector.2.bias"])


def write_projector(path: Path, kind: str, **changes: Any) -> Path:
    """Write a first stage's file for the tiny language model, with some tensors otherwise."""
    shapes = projector_shapes(kind, TINY)
    torch.save(draw(shapes) | changes, path)
    return path


def test_a_first_stages_projector_that_does_not_fit_is_refused(
    small_tokenizer: Path, tmp_path: Path, tower: Path, language_model: Path
) -> None:
    folder = make_published(tmp_path / "published", small_tokenizer, "ldpnetv2")
    other = write_projector(tmp_path / "other.bin", "ldpnet")
    with pytest.raises(ConfigError, match=r"projector\.weights = .* a projector of kind ldpnet,"):
        start_from(folder, kind=None, weights=other)
    wide = write_projector(tmp_path / "wide.bin", "ldpnetv2")
    with pytest.raises(DataError, match=r"'model\.mm_projector\..*' is 64 x 128, but .* 32 x 32"):
        start_from(language_model, tower, "ldpnetv2", weights=wide)
    with pytest.raises(ConfigError, match=r"projector\.weights = .*absent\.bin: is not a file"):
        start_from(folder, kind=None, weights=tmp_path / "absent.bin")
    torch.save({"model.layers.0.mlp.up_proj.weight": torch.ones(1)}, other)
    with pytest.raises(DataError, match=r"its 0 weights of a projector"):
        start_from(folder, kind=None, weights=other)
    wide.write_bytes(wide.read_bytes()[:400])
    with pytest.raises(DataError, match=r"wide\.bin: cannot be read .*truncated"):
        start_from(folder, kind=None, weights=wide)
    torch.save({"model.mm_projector.0.weight": Path}, other)
    with pytest.raises(DataError, match=r"other\.bin: .*would run code"):
        start_from(folder, kind=None, weights=other)


def test_the_kind_asked_for_must_be_that_of_what_the_run_starts_from(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    folder = make_published(tmp_path / "published", small_tokenizer, "ldpnetv2")
    with pytest.raises(ConfigError, match=r"projector\.kind = ldpnet: must be ldpnetv2"):
        start_from(folder, kind="ldpnet")


def test_what_is_missing_is_named(language_model: Path, tower: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"vision = null: is not given, and .*llm is a language"):
        start_from(language_model)
    with pytest.raises(ConfigError, match=r"projector\.kind = null: is not given"):
        start_from(language_model, tower, None)
    with pytest.raises(ConfigError, match=r"init = .*nowhere: is not a folder"):
        start_from(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"vision = .*nowhere: is not a folder"):
        start_from(language_model, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="model_type = llama: must be clip_vision_model"):
        start_from(language_model, language_model)
    bare = tmp_path / "bare"
    shutil.copytree(language_model, bare)
    (bare / "tokenizer.model").unlink()
    with pytest.raises(ConfigError, match=r"init = .*bare: holds neither tokenizer"):
        start_from(bare, tower)
    (bare / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"init = .*bare: has no model\.safetensors"):
        start_from(bare, tower)
    with pytest.raises(DataError, match=r"weights do not fit its model: 21 .*missing, 55"):
        shutil.copyfile(tower / "model.safetensors", bare / "model.safetensors")
        start_from(bare, tower)


def test_towers_and_language_models_that_do_not_fit_their_configs_are_refused(
    language_model: Path, tower: Path, tmp_path: Path
) -> None:
    shutil.copytree(tower, tmp_path / "tower")
    weights = stored(tower)
    del weights["pre_layrnorm.bias"]
    save_file(weights, tmp_path / "tower/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"1 \(pre_layrnorm\.bias\) missing, 0 unexpected"):
        start_from(language_model, tmp_path / "tower")
    file = tmp_path / "tower/model.safetensors"
    file.write_bytes((tower / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"model\.safetensors: is damaged or truncated"):
        start_from(language_model, tmp_path / "tower")
    preprocessor = {"size": {"shortest_edge": 32}, "crop_size": 32}
    shutil.copyfile(tower / "model.safetensors", file)
    (tmp_path / "tower/preprocessor_config.json").write_text(json.dumps(preprocessor))
    with pytest.raises(ConfigError, match=r"images\.size_pixels = 32: .* tower's images, 16"):
        start_from(language_model, tmp_path / "tower")


def test_a_language_model_that_is_none_is_refused(tower: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"model_type = \(absent\)"):
        start_from(tmp_path, tower)
    (tmp_path / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(ConfigError, match="unheard_of: is not known to transformers"):
        start_from(tmp_path, tower)


@pytest.mark.skipif(not _IO.exists(), reason="needs Linux's account of what a process reads")
def test_opening_a_large_language_model_reads_next_to_nothing(
    tower: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    """2.7 GB of weights, which are holes in the file: 10 million rows of 32."""
    folder = tmp_path / "llm"
    make_language_model(folder, small_tokenizer, vocab_size=800)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 10_000_000}))
    header: dict[str, Any] = {}
    end = 0
    for name, value in stored(folder).items():
        shape = [10_000_000, 32] if value.shape[0] == 800 else list(value.shape)
        start, end = end, end + 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    file = folder / "model.safetensors"
    with open(file, "wb") as opened:
        opened.write(len(encoded).to_bytes(8, "little") + encoded)
        opened.truncate(8 + len(encoded) + end)
    assert file.stat().st_size > 2.5e9

    def read_bytes() -> int:
        return int(_IO.read_text().split("rchar: ")[1].split()[0])

    before, peak_kib = read_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = start_from(folder, tower)
    assert read_bytes() - before < 5e6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib < 200_000
    assert start.architecture.language["vocab_size"] == 10_000_000
    start.close()


@pytest.fixture(scope="module")
def aligned(
    language_model: Path, tower: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path]:
    """A first stage's run, and its data."""
    root = tmp_path_factory.mktemp("aligned")
    data, images = write_llava(root / "data", captions=True)
    more = {"train.max_steps": 2, "train.language_model": False, "data.template": "plain"}
    fields = more | {"data.grouping": "none", "vision": tower}
    run_ranks(train_vlm, 1, language_model, data, images, root / "run", fields)
    return root / "run", data, images


@pytest.mark.slow
def test_a_second_stage_starts_from_a_first_with_all_its_weights(
    aligned: tuple[Path, Path, Path], language_model: Path, tower: Path
) -> None:
    run, _, _ = aligned
    start = start_from(run, kind=None)
    assert_same(values_of(start, LANGUAGE), stored(language_model))
    assert_same(values_of(start, TOWER), stored(tower))
    assert len(values_of(start, PROJECTOR)) == 6
    assert start.architecture.images.aspect_ratio == "pad"
    assert start_from(run, kind=None, aspect_ratio="square").architecture.images.aspect_ratio == (
        "square"
    )
    step = start_from(run / "checkpoints/step-2", kind=None)
    assert_same(values_of(step, PROJECTOR), values_of(start, PROJECTOR))
    with pytest.raises(ConfigError, match="has a tower of its own"):
        start_from(run, tower)
    with pytest.raises(ConfigError, match=r"projector\.kind = ldpnet: must be ldpnetv2"):
        start_from(run, kind="ldpnet")


@pytest.mark.slow
def test_a_damaged_first_stage_is_named_rather_than_taken_for_a_language_model(
    aligned: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(aligned[0], tmp_path / "run")
    (tmp_path / "run/checkpoints/step-2/manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"step-2/manifest\.json: not a checkpoint's manifest"):
        start_from(tmp_path / "run", kind=None)


@pytest.mark.slow
def test_a_run_that_is_resumed_takes_all_from_its_own_checkpoint(
    aligned: tuple[Path, Path, Path], tower: Path, tmp_path: Path
) -> None:
    run, _, _ = aligned
    start = start_from("gone", tmp_path / "gone too", run=str(run))
    assert start.architecture == start_from(run, kind=None).architecture
    assert start.origin.vision == str(tower)
    with pytest.raises(UserError, match=rf"^{run}: no checkpoint of .* another run\.folder$"):
        values_of(start, PROJECTOR)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "sft", "sft_lora"])
def test_runs_of_the_former_stages_are_language_models_to_start_from(
    stage: str,
    small_dataset: Path,
    small_tokenizer: Path,
    language_model: Path,
    tower: Path,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    if stage == "pretrain":
        run_ranks(train_tiny, 1, small_dataset, run, {"train.max_steps": 2})
    else:
        dataset = prepare_tiny(tmp_path, small_tokenizer)
        lora = {"lora.rank": 4, "lora.alpha": 8} if stage == "sft_lora" else {}
        fields = {"train.max_steps": 2, "validation.every_steps": 100} | lora
        run_ranks(finetune_tiny, 1, language_model, dataset, run, fields)
    start = start_from(run, tower)
    plain = open_language_model(str(run)).require_weights()
    found = values_of(start, LANGUAGE)
    assert "lm_head.weight" in found
    for name, value in found.items():
        assert torch.equal(value, plain.parameter(name)), name
    if stage == "sft_lora":  # the adapter has been added
        base = stored(language_model)
        adapted = [name for name, value in found.items() if not torch.equal(value, base[name])]
        assert len(adapted) == 14
    with pytest.raises(ConfigError, match="vision = null: is not given"):
        start_from(run)


def open_as_rank(init: str, run: str) -> tuple[Origin, str, dict[str, str]]:
    """Open a start as one of a run's ranks, as 'vlm run' does."""
    config = Config(
        init=init,
        run=RunConfig(folder=run),
        data=ImageTextData(path="none.json", images="none"),
        distributed=DistributedConfig(accelerator="cpu", devices=2),
    )
    named = [config.init, named_tower(config.init)]
    ranks, folder = Ranks(config.distributed), RunFolder(run)
    start, commits = open_on_all(ranks, folder, named, partial(open_start, config, folder))
    start.verify(ranks.join(), init)
    return start.origin, start.fingerprint, commits


@pytest.mark.slow
def test_two_ranks_take_the_tower_of_the_hub_that_a_published_folder_names(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 2}
    folder = make_published(
        tmp_path / "published",
        small_tokenizer,
        leave_out=("model.vision_tower",),
        mm_vision_tower="tester/tower",
    )
    with HubServer() as hub:
        name = publish(hub, "tester/tower", make_tower(tmp_path / "tower", **sizes))
        place = (hub.url, tmp_path / "cache", open_as_rank)
        first, second = run_ranks(at_hub, 2, *place, str(folder), str(tmp_path / "run"))
        assert len(hub.sent("GET /api/models/tester/tower$")) == 1
        assert len(hub.sent(r"GET /tester/tower/resolve/.*\.safetensors")) == 1
    origin = Origin(init=str(folder), vision=name)
    assert first == second == (origin, first[1], {"tester/tower": name})
