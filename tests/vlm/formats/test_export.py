"""What 'vlm export' writes: what was trained, in each form, and nothing that says otherwise."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from mobilellama.config import ConfigError
from mobilellama.pretrain.hf.weights import DTYPES
from mobilellama.run_record import RECORD_FILE, Origin, RunRecord
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.labels import encode_prompt
from mobilellama.sft.data.template import read_template
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.vlm.formats.folder import open_folder
from mobilellama.vlm.formats.trained import open_trained
from mobilellama.vlm.main import main
from tests.helpers.hf_tokenizers import write_tokenizer
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.hub_server import HubServer
from tests.pretrain.helpers.tiny import train_tiny
from tests.pretrain.hf.test_hub import hub_environment
from tests.vlm.helpers.exporting import TOWER_NAME, Runs, assert_equal, changed, export, weights_of
from tests.vlm.helpers.llava_data import write_llava
from tests.vlm.helpers.published import (
    TINY,
    draw,
    make_published,
    projector_shapes,
    published_shapes,
    stored,
)
from tests.vlm.helpers.tiny_vlm import train_vlm

# ---- of a folder, for which nothing need be trained


def test_a_folder_in_our_form_is_written_in_another_dtype(ours: Path, tmp_path: Path) -> None:
    wide = export(ours, tmp_path / "wide", "--dtype", "fp32", "--name", "Wide")
    before, after = stored(ours), stored(wide)
    assert before.keys() == after.keys()
    for name, value in after.items():
        assert value.dtype == torch.float32 and torch.equal(value, before[name].float())
    assert json.loads((wide / "config.json").read_text())["dtype"] == "float32"
    assert "# Wide" in (wide / "README.md").read_text()


def test_a_folder_in_our_form_keeps_the_record_of_its_run(ours: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ours, tmp_path / "with_record")
    RunRecord(stage="vlm", origin=Origin(init="chat")).write(folder)
    written = export(folder, tmp_path / "again", "--check", "false")
    assert (written / RECORD_FILE).read_bytes() == (folder / RECORD_FILE).read_bytes()


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


def test_a_tokenizer_of_another_kind_has_no_place_in_the_published_form(
    ours: Path, tmp_path: Path
) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer", "byte_level", specials=["</s>"])
    with pytest.raises(ConfigError, match=r"tokenizer = .*: must be a sentencepiece model"):
        export(ours, tmp_path / "out", "--format", "mobilevlm", "--tokenizer", str(tokenizer))


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


def test_a_folder_that_is_not_read_again_says_so(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(ours, tmp_path / "a", "--check", "false")
    assert "not read again; --check true reads it again" in capsys.readouterr().err
    export(ours, tmp_path / "b")
    assert "checked: the folder reads back as the trained model" in capsys.readouterr().err


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
        with pytest.raises(ConfigError, match=r"output = .*/exported: lies within .*, which this"):
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
    with pytest.raises(ConfigError, match=r"tokenizer = null: .* is not in a run that has one"):
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
