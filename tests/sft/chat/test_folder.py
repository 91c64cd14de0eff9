"""The files that make a folder a chat model's."""

import json
from pathlib import Path

import pytest

from mobilellama.sft.chat.folder import check_chat_ids, end_token, write_chat_files
from mobilellama.sft.data.template import read_template
from mobilellama.tokenizers.tokenizer import Tokenizer


def test_transformers_gives_the_ids_of_training_and_stops_where_an_answer_ends(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    tokenizer, template = Tokenizer(small_tokenizer), read_template("vicuna_v1")
    write_chat_files(tmp_path, tokenizer, template, max_length_tokens=64)
    check_chat_ids(tmp_path, tokenizer, template)
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    assert (settings["bos_token_id"], settings["eos_token_id"]) == (1, 2)
    assert settings["do_sample"] is False


def test_another_template_in_the_folder_is_found(small_tokenizer: Path, tmp_path: Path) -> None:
    tokenizer, template = Tokenizer(small_tokenizer), read_template("vicuna_v1")
    write_chat_files(tmp_path, tokenizer, template, max_length_tokens=64)
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        path = tmp_path / name
        if path.exists():
            path.write_text(path.read_text().replace("USER: ", "User: "))
    with pytest.raises(RuntimeError, match="apply_chat_template gives"):
        check_chat_ids(tmp_path, tokenizer, template)


def test_the_end_of_an_answer_is_a_token_only_where_the_tokenizer_has_it(
    small_tokenizer: Path,
) -> None:
    tokenizer = Tokenizer(small_tokenizer)
    assert end_token(read_template("vicuna_v1"), tokenizer) == "</s>"
    assert end_token(read_template("chatml"), tokenizer) is None
