"""Weights of the published form have the published names."""

import json
from pathlib import Path

import pytest

from mobilellama.vlm.formats.published_weights import published_names
from mobilellama.vlm.formats.trained import open_trained
from tests.vlm.helpers.exporting import TOWER_NAME, Runs, assert_equal, export, weights_of
from tests.vlm.helpers.published import (
    TINY,
    projector_shapes,
    published_config,
    stored,
)


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
