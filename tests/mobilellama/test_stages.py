"""Which stage a run or a folder is of."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.config import Config as PretrainConfig
from mobilellama.sft.config import Config as SftConfig
from mobilellama.stages import Stage, require_language_model, require_stage, stage_of
from mobilellama.vlm.config import Config as VlmConfig

CONFIGS: dict[Stage, type] = {"pretrain": PretrainConfig, "sft": SftConfig, "vlm": VlmConfig}


def config_of(stage: Stage) -> dict[str, Any]:
    """Return a config with the fields of the stage's own, their values left out."""
    return {field.name: None for field in fields(CONFIGS[stage])} | {"model": {}}


@pytest.mark.parametrize("stage", CONFIGS)
def test_a_run_is_told_by_the_fields_of_its_config(stage: Stage) -> None:
    assert stage_of(config_of(stage)) == stage


@pytest.mark.parametrize("wanted", CONFIGS)
@pytest.mark.parametrize("given", CONFIGS)
def test_another_stages_run_is_refused_and_sent_to_its_verb(given: Stage, wanted: Stage) -> None:
    config = config_of(given)
    if given == wanted:
        require_stage(config, wanted, field="checkpoint", value="runs/a")
        return
    with pytest.raises(ConfigError) as caught:
        require_stage(config, wanted, field="checkpoint", value="runs/a")
    assert str(caught.value) == (
        f"checkpoint = runs/a: was written by 'mobilellama {given} run'. "
        f"Export it with 'mobilellama {given} export'."
    )


@pytest.mark.parametrize("kind", ["mobilellama_vlm", "mobilevlm"])
def test_a_vision_language_models_folder_is_no_language_models(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ConfigError) as caught:
        require_language_model(tmp_path, field="init", remedy="Give another")
    rule = f"is a vision-language model (model_type {kind})"
    assert str(caught.value) == f"init = {tmp_path}: {rule}. Give another."


@pytest.mark.parametrize("text", ['{"model_type": "llama"}', "{}", "[]", "no JSON", None])
def test_of_any_other_folder_nothing_is_said(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    require_language_model(tmp_path, field="init", remedy="Give another")
