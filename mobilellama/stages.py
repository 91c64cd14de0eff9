"""Which stage a run or a model's folder is of, so that another's is refused by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mobilellama.config import ConfigError
from mobilellama.files.atomic import read_json

Stage = Literal["pretrain", "sft", "vlm"]

VLM_TYPES = ("mobilellama_vlm", "mobilevlm")
"""``model_type`` of the folders that 'vlm export' writes: our form, and the published one."""


def stage_of(config: Mapping[str, Any]) -> Stage:
    """Return the stage that trained with a config: a checkpoint's, or an attempt's.

    The later stages begin from something, and of them only the last has a tower.
    """
    if "init" not in config:
        return "pretrain"
    return "vlm" if "vision" in config else "sft"


def require_stage(
    config: Mapping[str, Any],
    stage: Stage,
    *,
    field: str,
    value: object,
    remedy: str = "Export it with 'mobilellama {stage} export'",
) -> None:
    """Raise ConfigError unless a config is the stage's.

    Args:
        config: of a checkpoint or an attempt.
        stage: the one whose runs are understood.
        field: the config field that named the run.
        value: the field's.
        remedy: what to do instead; ``{stage}`` becomes the run's.
    """
    found = stage_of(config)
    if found != stage:
        rule = f"was written by 'mobilellama {found} run'"
        raise ConfigError(field, value, rule, remedy.format(stage=found))


def require_language_model(folder: str | Path, *, field: str, remedy: str) -> None:
    """Raise ConfigError if a folder holds a vision-language model."""
    try:
        values = read_json(Path(folder) / "config.json")
    except (OSError, ValueError):
        return  # whoever reads it says what is wrong
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind in VLM_TYPES:
        rule = f"is a vision-language model (model_type {kind})"
        raise ConfigError(field, str(folder), rule, remedy)
