"""What a run says it is, and what is concluded of older ones."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.config import Config as PretrainConfig
from mobilellama.run_record import (
    LLAMA_LINEARS,
    RECORD_FILE,
    Adapters,
    Origin,
    RunRecord,
    Stage,
    record_of,
    require_language_model,
    stage_of_folder,
)
from mobilellama.sft.config import Config as SftConfig
from mobilellama.vlm.config import Config as VlmConfig

CONFIGS: dict[Stage, type] = {"pretrain": PretrainConfig, "sft": SftConfig, "vlm": VlmConfig}
FULL = RunRecord(
    stage="vlm",
    origin=Origin(init="/home/me/chat", vision="/data/clip", projector="/data/mm_projector.bin"),
    template="vicuna_v1",
    lora=Adapters(rank=8, alpha=16, dropout=0.1, targets=["q_proj"]),
    trains_language_model=True,
)


def old_config(stage: Stage, **more: object) -> dict[str, Any]:
    """Return what a run without a record stored: the stage's fields, most values left out."""
    parts = {"data": {"template": "phi"}, "train": {"language_model": False}, "init": "BASE"}
    known = {field.name: parts.get(field.name) for field in fields(CONFIGS[stage])}
    if stage == "pretrain":
        del known["init"]  # pretraining has had it since runs have records
    return known | {"model": {}} | more


def test_a_record_is_read_as_it_was_written() -> None:
    stored = json.loads(json.dumps(asdict(FULL)))
    assert record_of(stored, {}) == FULL


def test_a_record_goes_before_what_the_config_would_tell() -> None:
    stored = asdict(RunRecord(stage="pretrain", origin=Origin(init="another run")))
    assert record_of(stored, old_config("sft")).stage == "pretrain"


@pytest.mark.parametrize(
    "stored", [[], {}, {"stage": "gan"}, {"stage": "sft", "lora": {"rank": 1}}]
)
def test_what_is_no_record_is_refused(stored: object) -> None:
    with pytest.raises(TypeError, match="record"):
        record_of(stored, old_config("sft"))


@pytest.mark.parametrize("stage", CONFIGS)
def test_an_older_run_is_told_by_the_fields_of_its_config(stage: Stage) -> None:
    assert record_of(None, old_config(stage)).stage == stage


def test_an_older_run_tells_what_it_began_from_and_what_it_trained() -> None:
    assert record_of(None, old_config("pretrain")) == RunRecord(stage="pretrain")
    assert record_of(None, old_config("sft")) == RunRecord(stage="sft", origin=Origin(init="BASE"))
    origin = {"init": "chat", "vision": "clip"}
    assert record_of(None, old_config("vlm", origin=origin)) == RunRecord(
        stage="vlm",
        origin=Origin(init="chat", vision="clip"),
        template="phi",
        trains_language_model=False,
    )


def test_an_older_run_names_its_targets_or_means_the_seven_of_its_time() -> None:
    def adapters(**lora: object) -> Adapters | None:
        return record_of(None, old_config("sft", lora=lora)).lora

    assert adapters(rank=4, alpha=8) == Adapters(
        rank=4, alpha=8, dropout=0.05, targets=[*LLAMA_LINEARS]
    )
    named = adapters(rank=4, alpha=8, dropout=0.0, targets=["dense"])
    assert named is not None and named.targets == ["dense"]
    assert adapters(rank=None, targets=[*LLAMA_LINEARS]) is None


@pytest.mark.parametrize("wanted", CONFIGS)
@pytest.mark.parametrize("given", CONFIGS)
def test_another_stages_run_is_refused_and_sent_to_its_verb(given: Stage, wanted: Stage) -> None:
    record = RunRecord(stage=given)
    if given == wanted:
        record.require(wanted, field="checkpoint", value="runs/a")
        return
    with pytest.raises(ConfigError) as caught:
        record.require(wanted, field="checkpoint", value="runs/a")
    assert str(caught.value) == (
        f"checkpoint = runs/a: was written by 'mobilellama {given} run'. "
        f"Export it with 'mobilellama {given} export'."
    )


def test_an_exports_record_has_no_paths_of_this_machine(tmp_path: Path) -> None:
    FULL.write(tmp_path)
    text = (tmp_path / RECORD_FILE).read_text()
    assert "/" not in text
    assert json.loads(text)["origin"] == {
        "init": "chat", "vision": "clip", "projector": "mm_projector.bin", "revision": None,
    }  # fmt: skip
    assert stage_of_folder(tmp_path) == "vlm"


def test_an_exports_record_keeps_the_owner_and_the_commit_of_a_model_from_the_hub(
    tmp_path: Path,
) -> None:
    name = f"mtgv/MobileLLaMA-1.4B@{'c0' * 20}"
    record = RunRecord(stage="sft", origin=Origin(init=name, revision="v1.0"))
    record.write(tmp_path)
    text = json.loads((tmp_path / RECORD_FILE).read_text())
    assert (text["origin"]["init"], text["origin"]["revision"]) == (name, "v1.0")


def test_a_folder_is_what_its_record_says_whatever_type_its_model_has(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    RunRecord(stage="sft").write(tmp_path)
    assert stage_of_folder(tmp_path) == "sft"
    require_language_model(tmp_path, field="init", remedy="Give another")


def test_a_damaged_record_hides_no_vision_language_model(tmp_path: Path) -> None:
    FULL.write(tmp_path)
    (tmp_path / RECORD_FILE).write_text((tmp_path / RECORD_FILE).read_text().replace("chat", "x"))
    assert stage_of_folder(tmp_path) is None
    (tmp_path / "config.json").write_text('{"model_type": "mobilellama_vlm"}')
    with pytest.raises(ConfigError, match="is a vision-language model"):
        require_language_model(tmp_path, field="init", remedy="Give another")


@pytest.mark.parametrize("kind", ["mobilellama_vlm", "mobilevlm"])
def test_a_vision_language_models_folder_is_no_language_models(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ConfigError) as caught:
        require_language_model(tmp_path, field="init", remedy="Give another")
    assert str(caught.value) == f"init = {tmp_path}: is a vision-language model. Give another."


@pytest.mark.parametrize("text", ['{"model_type": "llama"}', "{}", "[]", "no JSON", None])
def test_of_any_other_folder_nothing_is_said(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    assert stage_of_folder(tmp_path) is None
    require_language_model(tmp_path, field="init", remedy="Give another")
