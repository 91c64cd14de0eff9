"""The files that are written for transformers, loaded as users load them."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mobilellama.config import ConfigError
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.mobilellama.tokenizers.conftest import (
    load,
)


def test_the_bos_switch_can_be_turned_when_loading(tokenizer: Tokenizer, tmp_path: Path) -> None:
    without = load(tokenizer, tmp_path, add_bos=False)
    with_bos = load(tokenizer, tmp_path, add_bos=False, add_bos_token=True)
    assert with_bos("a").input_ids == [tokenizer.bos_id, *without("a").input_ids]


def test_padding_is_unk_and_a_llama_takes_the_inputs_as_they_are(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    loaded = load(tokenizer, tmp_path)
    batch = loaded(["a", "a b c d e f"], padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch.input_ids[0][-1] == tokenizer.unk_id
    assert (loaded.bos_token_id, loaded.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)


def test_the_chat_template_is_found_in_its_file_and_in_the_config(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    chat_template = "{{- bos_token + 'naïve \\n' -}}"
    tokenizer = Tokenizer(small_tokenizer)
    tokenizer.write_hf(tmp_path, max_length_tokens=64, add_bos=True, chat_template=chat_template)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == chat_template
    (tmp_path / "chat_template.jinja").unlink()
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == chat_template
    with pytest.raises(ConfigError, match=r"eos_token = <\|im_end\|>: is not a special token of "):
        tokenizer.write_hf(tmp_path, max_length_tokens=64, add_bos=True, eos_token="<|im_end|>")
