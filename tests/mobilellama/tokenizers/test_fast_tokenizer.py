"""The exported tokenizer against sentencepiece, loaded as users load it."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from mobilellama.config import ConfigError
from mobilellama.tokenizers.fast_tokenizer import fast_tokenizer
from mobilellama.tokenizers.sentencepiece_model import USER_DEFINED
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.hostile_texts import hostile_texts

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


@pytest.fixture(scope="module", params=["small_tokenizer", "llama_tokenizer"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """The model trained on the small corpus, and LLaMA's where it is present."""
    return Tokenizer(request.getfixturevalue(request.param))


def load(tokenizer: Tokenizer, folder: Path, *, add_bos: bool = True, **options: Any) -> Any:
    """Write the tokenizer beside a Llama's config.json, and load it with AutoTokenizer."""
    tokenizer.write_hf(folder, max_length_tokens=2048, add_bos=add_bos)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return AutoTokenizer.from_pretrained(folder, **options)


@pytest.mark.parametrize("add_bos", [True, False])
def test_auto_tokenizer_gives_the_ids_of_sentencepiece_on_hostile_texts(
    tokenizer: Tokenizer, tmp_path: Path, add_bos: bool
) -> None:
    loaded = load(tokenizer, tmp_path, add_bos=add_bos)
    texts = hostile_texts()
    start = [tokenizer.bos_id] if add_bos else []
    ids = loaded(texts).input_ids
    different = [
        text
        for text, found in zip(texts, ids, strict=True)
        if found != start + tokenizer.processor.encode(text)
    ]
    assert different == []


def test_decoding_gives_the_text_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    loaded = load(tokenizer, tmp_path)
    # sentencepiece decodes U+2581 to a space, and so must this.
    for text in hostile_texts(500):
        ids = loaded(text).input_ids
        expected = tokenizer.decode(tokenizer.processor.encode(text))
        assert loaded.decode(ids, skip_special_tokens=True) == expected
        if "▁" not in text:
            assert expected == text


def test_a_spelt_special_token_parts_two_texts_that_are_encoded_by_themselves(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Training inserts the id of </s> between texts; llama.cpp and this spell the same ids."""
    loaded, encode = load(tokenizer, tmp_path, add_bos=False), tokenizer.processor.encode
    for first, second in [("USER: hi", "USER: a"), ("x ", " y"), ("", "z")]:
        expected = [*encode(first), tokenizer.eos_id, *encode(second)]
        assert loaded(f"{first}</s>{second}").input_ids == expected
    assert tokenizer.eos_id not in encode("a</s>b"), "sentencepiece itself takes it for text"


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
    with pytest.raises(ConfigError, match=r"eos_token = <\|im_end\|>: is no special token of "):
        tokenizer.write_hf(tmp_path, max_length_tokens=64, add_bos=True, eos_token="<|im_end|>")


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (
            lambda proto: setattr(proto.trainer_spec, "treat_whitespace_as_suffix", True),
            "mark words at their beginning",
        ),
        (
            lambda proto: setattr(proto.normalizer_spec, "remove_extra_whitespaces", True),
            "keep runs of spaces",
        ),
        (
            lambda proto: setattr(proto.pieces[400], "type", USER_DEFINED),
            "have no user-defined or unused pieces",
        ),
    ],
)
def test_a_model_that_cannot_be_exported_exactly_is_refused(
    small_tokenizer: Path, tmp_path: Path, spoil: Any, rule: str
) -> None:
    proto = Tokenizer(small_tokenizer).proto
    spoil(proto)
    path = tmp_path / "spoilt.model"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ConfigError, match=f"must {rule} to be exported exactly"):
        fast_tokenizer(Tokenizer(path))
