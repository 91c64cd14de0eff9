"""Where a published tower's heads, activation, epsilon and mean come from, and in which order."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import CLIPVisionConfig, CLIPVisionModel

from mobilellama.config import ConfigError
from mobilellama.run_record import Origin
from mobilellama.vlm.chat.assistant import load
from mobilellama.vlm.formats.folder import open_folder
from mobilellama.vlm.formats.published_tower import named_tower
from mobilellama.vlm.main import main
from mobilellama.vlm.model import VisionLanguageModel
from mobilellama.vlm.towers import patch_features
from tests.helpers.hub_place import publish
from tests.pretrain.helpers.hub_server import HubServer
from tests.vlm.helpers.published import TINY, make_published, stored, vision_config
from tests.vlm.helpers.tiny_vlm import make_tower

HALF = [0.5, 0.5, 0.5]
TOWER = "model.vision_tower.vision_tower.vision_model."
Make = Callable[..., Path]


@pytest.fixture
def make(small_tokenizer: Path, tmp_path: Path) -> Make:
    """Makes a published folder whose config.json does not describe its tower."""

    def made(name: str = "published", **fields: Any) -> Path:
        folder = make_published(tmp_path / name, small_tokenizer, "mlp2x_gelu", **fields)
        if "vision_config" not in fields:
            values = json.loads((folder / "config.json").read_text())
            del values["vision_config"]
            (folder / "config.json").write_text(json.dumps(values))
        return folder

    return made


def config_folder(folder: Path, *, mean: list[float] | None = None, **fields: Any) -> Path:
    """Write a tower's config, and its image processor where a mean is given; no weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(vision_config(TINY) | fields))
    if mean is not None:
        size = {"size": {"shortest_edge": TINY.image}, "crop_size": TINY.image}
        processor = size | {"image_mean": mean, "image_std": mean}
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def heads(folder: Path, vision: Path | None = None) -> int:
    opened = open_folder(folder, vision=None if vision is None else str(vision))
    found = opened.architecture.vision["num_attention_heads"]
    assert isinstance(found, int)
    return found


def transformers_features(folder: Path, **fields: Any) -> Any:
    """What transformers' own tower of these fields makes of a published folder's weights."""
    tower: Any = CLIPVisionModel(CLIPVisionConfig(**(vision_config(TINY) | fields))).eval()
    weights = {name.removeprefix(TOWER): value.float() for name, value in stored(folder).items()
               if name.startswith(TOWER)}  # fmt: skip
    tower.load_state_dict(weights)
    pixels = torch.randn(2, 3, TINY.image, TINY.image, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return pixels, tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]


@pytest.mark.parametrize("source", ["vision_config", "named", "relative", "--vision"])
def test_a_tower_with_heads_of_16_gives_the_features_of_transformers_own(
    make: Make, tmp_path: Path, source: str
) -> None:
    its = {"num_attention_heads": 8, "hidden_act": "gelu", "layer_norm_eps": 1e-4}
    folder = config_folder(tmp_path / "tower", mean=HALF, **its)
    named = {"named": str(folder), "relative": "../tower"}
    fields: dict[str, Any] = {}
    if source == "vision_config":
        fields["vision_config"] = vision_config(TINY) | its
    if source in named:
        fields["mm_vision_tower"] = named[source]
    published = make(dtype=torch.float32, **fields)
    vision = str(folder) if source == "--vision" else None
    architecture = open_folder(published, vision=vision).architecture
    mean = (0.48145466, 0.4578275, 0.40821073) if source == "vision_config" else tuple(HALF)
    assert architecture.images.mean == mean
    output = tmp_path / "ours"
    more = [] if vision is None else ["--vision", vision]
    assert main(["import", "--model", str(published), "--output", str(output), *more]) == 0
    model: VisionLanguageModel = load(output, device="cpu", dtype="fp32").model
    pixels, expected = transformers_features(published, **its)
    with torch.no_grad():
        found = patch_features(model.vision_tower, pixels, -2)
    assert torch.equal(found, expected)
    _, of_64 = transformers_features(published)
    assert not torch.allclose(found, of_64, atol=1e-3), "heads of 64 compute something else"


def test_the_sources_go_in_their_order_and_the_one_taken_is_said(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = config_folder(tmp_path / "named", num_attention_heads=8, mean=HALF)
    both = make("both", mm_vision_tower="../named", vision_config=vision_config(TINY))
    assert heads(both) == 2
    assert heads(make("one", mm_vision_tower="../named")) == 8
    assert heads(make("none", mm_vision_tower="../gone"), named) == 8
    assert main(["import", "--model", str(tmp_path / "one"), "--dry_run", "true"]) == 0
    assert f"by mm_vision_tower = ../named; images as {tmp_path / 'one/../named'} says" in (
        capsys.readouterr().out
    )
    other = config_folder(tmp_path / "other", num_attention_heads=4)
    with pytest.raises(ConfigError, match=r"vision = .*other: says num_attention_heads 4, but mm_"):
        heads(tmp_path / "one", other)
    assert heads(tmp_path / "one", named) == 8, "the same is said twice"


def test_a_name_may_be_relative_to_where_the_command_runs(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the original and transformers look for it; the folder beside the model goes before."""
    config_folder(tmp_path / "tower", num_attention_heads=8)
    monkeypatch.chdir(tmp_path)
    folder = make(mm_vision_tower="tower")
    assert heads(folder) == 8
    config_folder(folder / "tower", num_attention_heads=4)
    assert heads(folder) == 4


def test_a_tower_without_an_image_processor_leaves_it_to_the_next_source(
    make: Make, tmp_path: Path
) -> None:
    config_folder(tmp_path / "named")
    given = config_folder(tmp_path / "given", mean=HALF)
    folder = make(mm_vision_tower="../named")
    assert open_folder(folder, vision=str(given)).architecture.images.mean == tuple(HALF)
    opened = open_folder(folder)
    assert opened.architecture.images.mean == (0.48145466, 0.4578275, 0.40821073)
    assert opened.tower_source.endswith("transformers' mean and deviation for such a tower")


def test_the_folders_own_image_processor_goes_first(make: Make, tmp_path: Path) -> None:
    config_folder(tmp_path / "named", mean=HALF)
    folder = make(mm_vision_tower="../named")
    assert open_folder(folder).architecture.images.mean == tuple(HALF)
    size = {"size": {"shortest_edge": TINY.image}, "crop_size": TINY.image}
    own = size | {"image_mean": [0.1, 0.2, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(own))
    assert open_folder(folder).architecture.images.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    "name", ["openai/clip-vit-large-patch14-336", "/gone/my-clip-vit-base-patch32", None, 7]
)
def test_what_nothing_says_is_refused_with_the_remedy(
    make: Make, name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is a known tower's name, but these weights have not its sizes."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = make(mm_vision_tower=name)
    with pytest.raises(ConfigError, match=r"vision = null: .*nothing says which heads.*--vision"):
        open_folder(folder)
    with pytest.raises(ConfigError, match=r"model = .*nothing says which.*vlm import "):
        load(folder, device="cpu")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"hidden_size": 64},
            "hidden_size = 64: must be 128, which the weights of .*published show",
        ),
        (
            {"num_hidden_layers": 4},
            "num_hidden_layers = 4: must be 3, which the weights of .* show",
        ),
        ({"image_size": 32}, "image_size = 32: must be 16, which the weights of .* show"),
        (
            {"intermediate_size": 9},
            "intermediate_size = 9: must be 192, which the weights of .* show",
        ),
        ({"model_type": "siglip_vision_model"}, "model_type = .*: must be clip_vision_model"),
        ({"num_attention_heads": 3}, "num_attention_heads = 3: must be a whole number that div"),
        ({"num_attention_heads": "8"}, "num_attention_heads = '8': must be a whole number"),
        ({"hidden_act": "none_such"}, "hidden_act = 'none_such': is not an activation"),
        ({"hidden_act": ["gelu"]}, r"hidden_act = \['gelu'\]: is not an activation"),
        ({"layer_norm_eps": 0}, "layer_norm_eps = 0: must be a number between 0 and 1"),
    ],
)
@pytest.mark.parametrize("source", ["vision_config", "named", "--vision"])
def test_a_source_that_the_weights_contradict_is_an_error_that_names_both(
    make: Make, tmp_path: Path, source: str, fields: dict[str, Any], message: str
) -> None:
    folder = config_folder(tmp_path / "tower", **fields)
    given = {"vision_config": {"vision_config": vision_config(TINY) | fields},
             "named": {"mm_vision_tower": str(folder)}}.get(source, {})  # fmt: skip
    with pytest.raises(ConfigError, match=message) as caught:
        heads(make(**given), folder if source == "--vision" else None)
    assert {"vision_config": "vision_config", "named": "mm_vision_tower"}.get(
        source, f"vision = {folder}"
    ) in str(caught.value)


def test_a_layer_that_nothing_names_is_refused(make: Make) -> None:
    folder = make(vision_config=vision_config(TINY))
    values = json.loads((folder / "config.json").read_text())
    del values["mm_vision_select_layer"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"mm_vision_select_layer = \(absent\): must be given"):
        open_folder(folder)


def test_a_run_starts_from_it_with_vision_for_its_config_alone(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.vlm.test_start import start_from

    folder = config_folder(tmp_path / "tower", num_attention_heads=8, mean=HALF)
    caplog.set_level(logging.INFO)
    published = make()
    architecture = start_from(published, folder, kind=None).architecture
    assert architecture.vision["num_attention_heads"] == 8
    assert (
        f"the tower's settings that its weights do not show: vision = {folder}; images as"
        in caplog.text
    )


def test_the_config_of_a_tower_that_only_the_hub_describes_is_fetched_without_its_weights(
    make: Make, tmp_path: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    tower = config_folder(tmp_path / "tower", num_attention_heads=8, mean=HALF)
    (tower / "model.safetensors").write_bytes(b"of another size" * 100)
    name = publish(hub, "tester/tower", tower)
    folder = make(mm_vision_tower="tester/tower")
    assert main(["import", "--model", str(folder), "--output", str(tmp_path / "ours")]) == 0
    said = f"by mm_vision_tower = tester/tower, on the Hub {name}; images as {name} says"
    assert said in capsys.readouterr().out
    architecture = open_folder(tmp_path / "ours").architecture
    assert architecture.vision["num_attention_heads"] == 8
    assert architecture.images.mean == tuple(HALF)
    assert not hub.sent(r"GET /tester/tower/resolve/.*\.safetensors")
    asked = len(hub.requests)
    given = config_folder(tmp_path / "given", num_attention_heads=4)
    assert heads(folder, given) == 4, "--vision goes first"
    (folder / "tester").mkdir()
    config_folder(folder / "tester/tower", num_attention_heads=2)
    assert heads(folder) == 2, "a folder of that name goes first"
    assert len(hub.requests) == asked


def test_a_folder_without_a_tower_takes_that_of_the_hub_which_its_config_names(
    make: Make, tmp_path: Path, hub: HubServer
) -> None:
    from tests.vlm.test_start import start_from

    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 2}
    tower = make_tower(tmp_path / "tower", **sizes)
    name = publish(hub, "tester/tower", tower)
    folder = make(leave_out=("model.vision_tower",), mm_vision_tower="tester/tower")
    opened = open_folder(folder)
    assert opened.named_tower == name
    assert opened.tower_source == f"mm_vision_tower = tester/tower, on the Hub {name}"
    theirs = stored(tower)
    for part, value in theirs.items():
        assert torch.equal(opened.weights.stored(f"vision_tower.{part}"), value)
    start = start_from(folder, kind=None)
    assert start.origin == Origin(init=str(folder), vision=name)
    model = load(folder, device="cpu", dtype="fp32").model.vision_tower.state_dict()
    assert all(torch.equal(model[part], value) for part, value in theirs.items())
    shutil.move(tower, folder / "beside")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"mm_vision_tower": "beside"}))
    beside = open_folder(folder)
    assert beside.named_tower == str(folder / "beside")
    for part, value in theirs.items():
        assert torch.equal(beside.weights.stored(f"vision_tower.{part}"), value)


@pytest.mark.parametrize("leave_out", [(), ("model.vision_tower",)])
def test_a_tower_that_the_hub_does_not_have_is_told_with_the_remedy(
    make: Make, hub: HubServer, leave_out: tuple[str, ...]
) -> None:
    folder = make(leave_out=leave_out, mm_vision_tower="tester/none")
    why = "holds no vision tower" if leave_out else "has"
    rule = f"its mm_vision_tower = tester/none is no folder here and no model at {hub.url}"
    with pytest.raises(ConfigError) as caught:
        open_folder(folder)
    error = str(caught.value)
    assert error.startswith("vision = null: is not given, and ")
    assert f"{folder} {why}: {rule}" in error
    assert error.endswith("Give the folder of that tower: --vision FOLDER.")


def test_the_named_tower_is_read_off_a_config_that_may_be_damaged(
    make: Make, tmp_path: Path
) -> None:
    folder = make(mm_vision_tower="tester/tower")
    assert named_tower(folder) == "tester/tower"
    assert named_tower(tmp_path / "gone") is None
    (folder / "config.json").write_text("{")
    assert named_tower(folder) is None
    (folder / "config.json").write_text('{"mm_vision_tower": 7}')
    assert named_tower(folder) is None
