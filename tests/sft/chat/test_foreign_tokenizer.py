import json
from pathlib import Path

import pytest

from mobilellama.config import DataError
from mobilellama.sft.chat.foreign_tokenizer import (
    GenerationConfig,
    can_sanitize,
    context_tokens,
    load_tokenizer,
    read_generation_config,
)
from mobilellama.sft.chat.model_choice import ModelChoice

ENDS = {
    '{"eos_token_id": 2}': GenerationConfig(eos_token_ids=(2,)),
    '{"eos_token_id": [1, 2], "stop_strings": "###"}': GenerationConfig(
        eos_token_ids=(1, 2), stop_strings=("###",)
    ),
    '{"eos_token_id": null, "stop_strings": ["a", "b"]}': GenerationConfig(stop_strings=("a", "b")),
    '{"eos_token_id": [[2]], "stop_strings": ""}': GenerationConfig(),
    "{}": GenerationConfig(),
}


@pytest.mark.parametrize("text", ENDS)
def test_ends_are_read_one_or_many_and_nothing_of_another_type(text: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    assert read_generation_config(str(tmp_path)) == ENDS[text]


def test_a_folder_without_generation_config_says_nothing_of_ends(tmp_path: Path) -> None:
    assert read_generation_config(str(tmp_path)) == GenerationConfig()


def test_a_damaged_generation_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(DataError, match=r"generation_config\.json is not JSON"):
        read_generation_config(str(tmp_path))


def test_the_context_is_what_the_models_config_says(tiny_chat_model: Path) -> None:
    tokenizer = load_tokenizer(ModelChoice(model=str(tiny_chat_model)))
    config = json.loads((tiny_chat_model / "config.json").read_text())
    known = context_tokens(str(tiny_chat_model), tokenizer)
    assert known == config["max_position_embeddings"]


def test_a_template_method_without_the_option_cannot_sanitize(tiny_chat_model: Path) -> None:
    tokenizer = load_tokenizer(ModelChoice(model=str(tiny_chat_model)))
    told = type(tokenizer).apply_chat_template.__code__.co_varnames
    assert can_sanitize(tokenizer) == ("sanitize_control_tokens" in told)
