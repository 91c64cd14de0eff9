"""The exported tokenizer against sentencepiece, loaded as users load it."""

from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.tokenizers.fast_tokenizer import fast_tokenizer
from mobilellama.tokenizers.sentencepiece_model import USER_DEFINED
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.hostile_texts import hostile_texts
from tests.mobilellama.tokenizers.conftest import load


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
