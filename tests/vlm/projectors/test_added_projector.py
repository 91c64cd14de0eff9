"""A projector that a test adds to the table is known to every command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mobilellama.vlm.projectors.projector import init_projector_parameter
from mobilellama.vlm.projectors.rules import ProjectorRules
from mobilellama.vlm.projectors.table import PROJECTORS, build_projector, image_tokens
from tests.vlm.helpers.added_projector import OneToken
from tests.vlm.helpers.llava_data import make_captions, make_images
from tests.vlm.helpers.tiny_vlm import make_language_model, make_tower, vlm_argv


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(PROJECTORS, "one_token", f"{OneToken.__module__}:OneToken")
    return "one_token"


def test_it_is_built_counted_and_initialised_by_its_line_in_the_table_alone(added: str) -> None:
    projector = build_projector(added, vision_width=8, width=12, rules=ProjectorRules())
    assert isinstance(projector, OneToken)
    assert image_tokens(added, 576, ProjectorRules()) == 1
    for name, parameter in projector.named_parameters():
        parameter.data = init_projector_parameter(projector, name, seed=0)
    assert projector(torch.ones(2, 16, 8)).shape == (2, 1, 12)


@pytest.mark.slow
def test_it_trains_is_exported_in_our_form_and_is_a_start(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    images = make_images(tmp_path / "images", 4)
    records = tmp_path / "captions.json"
    records.write_text(json.dumps(make_captions(8, images)))
    tower = make_tower(tmp_path / "tower")
    language = make_language_model(tmp_path / "language", small_tokenizer)
    folder, run = tmp_path / "exported", tmp_path / "run"
    one_step = {"train.max_steps": 1, "projector.pooling": None, "data.template": "plain"}
    first = one_step | {"projector.kind": "one_token", "vision": tower}
    again = one_step | {"projector.kind": None}
    export = ["export", "--checkpoint", str(run), "--output"]
    commands = [
        vlm_argv(language, records, tmp_path / "images", run, first),
        [*export, str(folder)],
        [*export, str(tmp_path / "published"), "--format", "mobilevlm"],
        [*export, str(tmp_path / "alone"), "--format", "projector"],
        vlm_argv(folder, records, tmp_path / "images", tmp_path / "second", again),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.vlm.helpers.added_projector", *map(json.dumps, commands)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "codes [0, 0, 2, 2, 0]" in done.stdout, done.stderr
    assert "projector = one_token: is not one of the original's" in done.stderr
    assert "the projector one_token has no published form" in done.stderr
    assert json.loads((folder / "config.json").read_text())["projector"] == "one_token"
    assert "one_token, 16 patches to 1 tokens" in (folder / "README.md").read_text()
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = {name for name in file.keys() if name.startswith("projector.")}
    assert names == {f"projector.mlp.{i}.{leaf}" for i in (0, 2) for leaf in ("weight", "bias")}
    verdict = json.loads((tmp_path / "second/verdict.json").read_text())
    assert (verdict["kind"], verdict["step"]) == ("finished", 1)
