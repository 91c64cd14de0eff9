"""Published folders in our form and back: every tensor bit for bit, every field of the config."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from mobilellama.config import ConfigError, DataError
from mobilellama.sft.data.template import read_template
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer
from mobilellama.vlm.data.labels import IMAGE
from mobilellama.vlm.formats.folder import open_folder
from mobilellama.vlm.main import main
from mobilellama.vlm.model import build_on, parameter_shapes
from tests.vlm.formats.test_folder import OLD_TABLES
from tests.vlm.helpers.published import TINY, Files, draw, make_published, published_shapes, stored
from tests.vlm.helpers.published_model import PublishedModel
from tests.vlm.helpers.tiny_vlm import make_tower


def run(verb: str, **options: Any) -> int:
    arguments = [(f"--{name}", str(value)) for name, value in options.items()]
    return main([verb, *[text for pair in arguments for text in pair]])


def assert_same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        same = found[name].contiguous().view(torch.uint8), value.contiguous().view(torch.uint8)
        assert torch.equal(*same), name


@pytest.mark.parametrize("files", ["bin", "shards", "safetensors"])
@pytest.mark.parametrize("kind", ["ldpnet", "ldpnetv2", "mlp2x_gelu"])
def test_a_published_folder_comes_back_bit_for_bit_with_its_config(
    small_tokenizer: Path, tmp_path: Path, kind: str, files: Files
) -> None:
    published = make_published(
        tmp_path / "published", small_tokenizer, kind, files=files, n_embd=2560, n_head=16
    )
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert run("import", model=published, output=ours) == 0
    shard = {"max_shard_size_gb": 2e-4} if files == "shards" else {}
    as_safetensors = {"safetensors": "true"} if files == "safetensors" else {}
    options = {"format": "mobilevlm", "checkpoint": ours, "output": back}
    assert run("export", **options, **shard, **as_safetensors) == 0
    assert_same_bits(stored(back), stored(published))
    config = json.loads((published / "config.json").read_text())
    assert json.loads((back / "config.json").read_text()) == config
    assert (back / "tokenizer.model").read_bytes() == small_tokenizer.read_bytes()
    names = {path.name for path in back.iterdir()}
    if files == "shards":
        index = json.loads((back / "pytorch_model.bin.index.json").read_text())
        assert set(index["weight_map"]) == set(published_shapes(kind, TINY))
        assert len({*index["weight_map"].values()}) > 2
    else:
        weights = {"bin": "pytorch_model.bin", "safetensors": "model.safetensors"}[files]
        assert names == {
            weights, "config.json", "generation_config.json", "tokenizer.model",
            "tokenizer_config.json", "special_tokens_map.json", "README.md",
        }  # fmt: skip


@pytest.mark.parametrize("files", ["bin", "safetensors"])
def test_the_imported_folder_is_the_same_model_in_our_names(
    small_tokenizer: Path, tmp_path: Path, files: Files
) -> None:
    published = make_published(tmp_path / "published", small_tokenizer, "ldpnet", files=files)
    assert run("import", model=published, output=tmp_path / "ours", name="Imported") == 0
    theirs, ours = open_folder(published), open_folder(tmp_path / "ours")
    assert (theirs.form, ours.form) == ("published", "ours")
    assert ours.architecture == theirs.architecture
    for name in parameter_shapes(ours.architecture):
        assert torch.equal(ours.weights.stored(name), theirs.weights.stored(name))
    config = json.loads((tmp_path / "ours/config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["published"] == json.loads((published / "config.json").read_text())
    template = read_template(tmp_path / "ours/template.yaml")
    assert template.sha256 == read_template("vicuna_v1").sha256
    assert open_tokenizer(tmp_path / "ours").sha256 == Tokenizer(small_tokenizer).sha256
    card = (tmp_path / "ours/README.md").read_text()
    assert "# Imported" in card and "## Training" not in card


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.bfloat16, "bfloat16"),
        (torch.float16, "float16"),
        (torch.float32, "float32"),
    ],
)
@pytest.mark.parametrize("files", ["bin", "safetensors"])
def test_weights_come_back_bit_for_bit_in_the_dtype_they_come_in(
    small_tokenizer: Path, tmp_path: Path, dtype: torch.dtype, name: str, files: Files
) -> None:
    """No --dtype is given on the way; fp16's smallest numbers are among the values."""
    smallest = {"lm_head.weight": torch.full((800, 64), 6e-8).to(dtype)}
    published = make_published(
        tmp_path / "published", small_tokenizer, dtype=dtype, extra=smallest, files=files,
        torch_dtype=name,
    )  # fmt: skip
    ours, back, again = (tmp_path / folder for folder in ("ours", "back", "again"))
    assert run("import", model=published, output=ours) == 0
    assert json.loads((ours / "config.json").read_text())["dtype"] == name
    assert {value.dtype for value in stored(ours).values()} == {dtype}
    as_safetensors = {"safetensors": "true"} if files == "safetensors" else {}
    assert run("export", checkpoint=ours, output=back, format="mobilevlm", **as_safetensors) == 0
    assert_same_bits(stored(back), stored(published))
    config = json.loads((published / "config.json").read_text())
    assert json.loads((back / "config.json").read_text()) == config
    assert run("export", checkpoint=ours, output=again) == 0
    assert_same_bits(stored(again), stored(ours))
    assert (again / "config.json").read_bytes() == (ours / "config.json").read_bytes()
    projector = tmp_path / "projector"
    assert run("export", checkpoint=ours, output=projector, format="projector") == 0
    content = torch.load(projector / "mm_projector.bin", weights_only=True)
    assert_same_bits(content, {name: stored(published)[name] for name in content})


def test_of_weights_of_several_dtypes_none_is_rounded(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    published = make_published(tmp_path / "published", small_tokenizer)
    weights = stored(published)
    weights["lm_head.weight"] = torch.randn(800, 64)
    torch.save(weights, published / "pytorch_model.bin")
    assert run("import", model=published, output=tmp_path / "ours") == 0
    found = stored(tmp_path / "ours")
    assert torch.equal(found["language_model.lm_head.weight"], weights["lm_head.weight"])
    norm = found["language_model.model.norm.weight"]
    assert torch.equal(norm, weights["model.norm.weight"].float())
    assert (
        run("export", checkpoint=tmp_path / "ours", output=tmp_path / "b", format="mobilevlm") == 0
    )
    for name, value in stored(tmp_path / "b").items():
        assert torch.equal(value, weights[name].float()), name


def test_of_a_folder_of_several_dtypes_the_export_rounds_none(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    published = make_published(tmp_path / "published", small_tokenizer, dtype=torch.bfloat16)
    ours = tmp_path / "ours"
    assert run("import", model=published, output=ours) == 0
    weights = stored(ours)
    for name in weights:  # fp16 holds more digits than bf16, and less range
        if name.startswith("projector."):
            weights[name] = (torch.randn(weights[name].shape) * 0.2).half()
    save_file(weights, ours / "model.safetensors", metadata={"format": "pt"})
    assert run("export", checkpoint=ours, output=tmp_path / "out") == 0
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float32"
    for name, value in stored(tmp_path / "out").items():
        assert torch.equal(value, weights[name].float()), name
    projector = tmp_path / "projector"
    assert run("export", checkpoint=ours, output=projector, format="projector") == 0
    content = torch.load(projector / "mm_projector.bin", weights_only=True)
    assert {value.dtype for value in content.values()} == {torch.float16}, "that of what it holds"


def test_a_report_says_what_was_read_and_what_was_passed_over(
    small_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = make_published(tmp_path / "published", small_tokenizer, extra=OLD_TABLES)
    assert run("import", model=published, dry_run="true") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("ldpnetv2, 144 tokens for an image of 16 pixels (pad)")
    assert lines.pop(6) == (
        "tower: heads 2, quick_gelu, epsilon 1e-05, layer -2, mean 0.4815 0.4578 0.4082, by "
        f"{published / 'config.json'}: vision_config; no preprocessor_config.json: "
        "transformers' mean and deviation for such a tower"
    )
    rows = [line.split() for line in lines[1:6]]
    shapes = parameter_shapes(open_folder(published).architecture)
    total = sum(shape.numel() for shape in shapes.values())
    projector = 64 * 128 + 64 + 64 * 64 + 64 + 64 * 9 + 64
    assert rows[2] == ["projector", "6", f"{projector:,}", "bf16"]
    assert rows[1][:3] == ["vision", "tower", "55"]
    assert rows[3][:3] == ["language", "model", "21"]
    assert rows[4] == ["all", "82", f"{total:,}"]
    assert lines[6:8] == ["missing: none", "unexpected: none"]
    assert lines[8] == "ignored: 3"
    assert sorted(line.strip() for line in lines[9:]) == sorted(OLD_TABLES)
    assert [path.name for path in tmp_path.iterdir()] == ["published"], "it wrote nothing"


def test_where_something_is_wrong_all_of_it_is_printed_and_nothing_written(
    small_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = {f"stray.{i}": torch.ones(1) for i in range(6)}
    lost = ("model.layers.1.mlp", "model.mm_projector.mlp.mlp.2")
    published = make_published(tmp_path / "published", small_tokenizer, extra=extra, leave_out=lost)
    with pytest.raises(DataError, match=r"5 \(model.*\.\.\.\) missing, 6 \(stray\.0"):
        run("import", model=published, output=tmp_path / "ours")
    lines = capsys.readouterr().out.splitlines()
    names = [name for name in published_shapes("ldpnetv2", TINY) if name.startswith(lost)]
    assert lines[1] == "missing: 5"
    assert [line.strip() for line in lines[2:7]] == sorted(names)
    assert lines[7] == "unexpected: 6"
    assert [line.strip() for line in lines[8:14]] == sorted(extra)
    assert not (tmp_path / "ours").exists()


def test_a_folder_whose_tower_is_elsewhere_is_imported_with_it(
    small_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    tower = make_tower(
        tmp_path / "tower", hidden_size=128, intermediate_size=192, num_attention_heads=2
    )
    published = make_published(
        tmp_path / "published", small_tokenizer, leave_out=("model.vision_tower",)
    )
    with pytest.raises(ConfigError, match=r"vision = null.*Give the folder of that tower"):
        run("import", model=published, output=tmp_path / "ours")
    assert run("import", model=published, vision=tower, output=tmp_path / "ours") == 0
    found = stored(tmp_path / "ours")
    for name, value in stored(tower).items():
        assert torch.equal(found[f"vision_tower.{name}"], value)
    config = json.loads((tmp_path / "ours/config.json").read_text())
    assert config["dtype"] == "float32", "the tower's, which bf16 would round"


def test_what_cannot_be_imported_is_refused(small_tokenizer: Path, tmp_path: Path) -> None:
    published = make_published(tmp_path / "published", small_tokenizer)
    with pytest.raises(ConfigError, match=r"output = null: must be given"):
        run("import", model=published)
    with pytest.raises(ConfigError, match="exists and is not empty"):
        run("import", model=published, output=tmp_path)
    with pytest.raises(ConfigError, match=r"output = .*/sub: lies within .*/published, which this"):
        run("import", model=published, output=published / "sub")
    assert run("import", model=published, output=tmp_path / "ours") == 0
    with pytest.raises(
        ConfigError, match=r"output = .*/sub: lies within .*/ours, which this command reads"
    ):
        run("export", checkpoint=tmp_path / "ours", output=tmp_path / "ours/sub")
    with pytest.raises(ConfigError, match="is in our form already"):
        run("import", model=tmp_path / "ours", output=tmp_path / "again")
    with pytest.raises(ConfigError, match="is a published folder already"):
        run("export", checkpoint=published, output=tmp_path / "again")
    with pytest.raises(ConfigError, match=r"of 'vlm run', or a folder of 'vlm export' or 'vlm imp"):
        run("export", checkpoint=tmp_path, output=tmp_path / "again")
    bare = tmp_path / "bare"
    shutil.copytree(published, bare)
    (bare / "tokenizer.model").unlink()
    with pytest.raises(ConfigError, match=r"model = .*bare: holds neither tokenizer"):
        run("import", model=bare, output=tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_weights_with_no_number_are_refused(small_tokenizer: Path, tmp_path: Path) -> None:
    published = make_published(tmp_path / "published", small_tokenizer)
    weights = draw(published_shapes("ldpnetv2", TINY))
    weights["model.norm.weight"][3] = torch.nan
    torch.save(weights, published / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"model\.norm\.weight' holds NaN"):
        run("import", model=published, output=tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("kind", ["ldpnet", "ldpnetv2", "mlp2x_gelu"])
def test_published_files_of_ours_compute_in_the_originals_layers_what_ours_compute(
    small_tokenizer: Path, tmp_path: Path, kind: str
) -> None:
    """Names and shapes alone would not tell two norms apart that have been swapped."""
    published = make_published(tmp_path / "published", small_tokenizer, kind)
    assert run("import", model=published, output=tmp_path / "ours") == 0
    options = {"checkpoint": tmp_path / "ours", "output": tmp_path / "back"}
    assert run("export", **options, format="mobilevlm") == 0
    opened = open_folder(tmp_path / "ours")
    model = build_on(torch.device("cpu"), opened.architecture).eval()
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randint(800, (2, 1, 9), generator=generator)
    pixels = torch.randint(256, (1, 3, 16, 16), generator=generator).to(torch.uint8)
    places = torch.full((1, opened.architecture.image_tokens), IMAGE)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(opened.weights.parameter(name))
        features = model.image_features(pixels)
        embeddings = model.embed(torch.cat([before, places, after], dim=1), features)
        found = model.language_model(inputs_embeds=embeddings).logits
    normalised = opened.architecture.images.normalise(pixels)
    for folder in (published, tmp_path / "back"):
        expected = PublishedModel(folder, kind).logits(before, normalised, after)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
