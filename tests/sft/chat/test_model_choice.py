"""Which folder answers: what is no chat folder is refused with a remedy."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mobilellama.config import ConfigError, DataError
from mobilellama.sft.chat.finetuned_model import opened
from mobilellama.sft.chat.model_choice import ModelChoice
from mobilellama.sft.chat.tokenizer import ChatTokenizer
from tests.sft.helpers.tiny_chat_model import copy_chat_model


def test_what_is_no_chat_folder_is_refused_with_a_remedy(
    tiny_chat_model: Path, tmp_path: Path
) -> None:
    def message(folder: Path, **fields: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            with opened(ModelChoice(model=str(folder), **fields)) as model:
                model.load()
        return str(caught.value)

    assert "is not a folder" in message(tmp_path / "absent")
    assert "has no config.json" in message(tmp_path)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert "has no whole checkpoint" in message(tmp_path / "run")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").touch()
    assert "sft merge" in message(tmp_path / "adapter")
    base = copy_chat_model(tiny_chat_model, tmp_path / "base", without="chat_template")
    assert "has no chat template. Give --template: " in message(base)
    assert "did you mean 'vicuna_v1'" in message(base, template="vicuna_v2")
    assert "writes <|im_start|>, <|im_end|>, which" in message(base, template="chatml")
    (base / "tokenizer.json").write_text("{")
    assert "has no tokenizer that can be read" in message(base)
    empty = copy_chat_model(tiny_chat_model, tmp_path / "empty")
    (empty / "model.safetensors").unlink()
    assert "cannot be read" in message(empty)
    (empty / "generation_config.json").write_text("{")
    with pytest.raises(DataError, match=r"generation_config\.json is not JSON"):
        ChatTokenizer(ModelChoice(model=str(empty)))
    assert "is not a device" in message(tiny_chat_model, device="gpu")
    if not torch.cuda.is_available():
        assert "torch sees 0 GPUs" in message(tiny_chat_model, device="cuda")
