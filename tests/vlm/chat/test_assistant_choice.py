"""Which model answers: what is refused before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.vlm.chat.assistant_choice import AssistantChoice


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quantization": "8bits"}, "quantization = 8bits: must be one of none, 8bit, 4bit"),
        ({"dtype": "fp8"}, "dtype = fp8: must be one of auto, bf16, fp16, fp32"),
        ({"orientation": "shown"}, "orientation = shown: must be one of as_stored, as_shown"),
    ],
)
def test_a_choice_that_there_is_not_is_refused_from_python_too(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    (tmp_path / "checkpoints").mkdir()  # a run's
    with pytest.raises(ConfigError) as caught:
        AssistantChoice(model=str(tmp_path), **fields)
    assert str(caught.value).startswith(message)


def test_a_run_a_checkpoint_and_a_folder_that_sees_are_taken(
    tmp_path: Path, assistant_folder: Path
) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "step-2").mkdir()
    (tmp_path / "step-2/manifest.json").touch()
    for folder in (tmp_path / "run", tmp_path / "step-2", assistant_folder):
        assert AssistantChoice(model=str(folder)).orientation is None


def test_what_is_neither_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"nowhere: is not a folder\. Give a folder that 'vlm exp"
    ):
        AssistantChoice(model=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="is neither a vision-language model's folder nor a run"):
        AssistantChoice(model=str(tmp_path))
